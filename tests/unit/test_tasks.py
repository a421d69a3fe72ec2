"""The tasks from outside: exit codes, one-line errors, words after --."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from provisioning import frontend, package
from provisioning.config import REPO
from provisioning.errors import ProvisioningError, UsageError, report


def invoke(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "provisioning.program", *words]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["build-kernel", "--no-such-option"], "no-such-option"),
        (["no-such-task"], "no-such-task"),
        (["build-kernel", "--kernel", "5.5"], "no kernel series '5.5'"),
        (["build-kernel", "--kernel", "6.1", "--source", "/no/such"], "no kernel sources"),
        (["build-kernel", "--config", "bogus", "--source", "kernel.org"], "no configuration"),
        (["build-kernel", "--config", "distro"], "is that of a host; add --host"),
        (["build-kernel", "--module", "--source", "debian"], "leave --source and --config out"),
        (["demo", "--module", "--kernel", "5.4"], "Debian has no kernel of the series 5.4"),
        (["build-kernel", "--host", "a b", "--source", "debian"], "no name of a host"),
        (["build-kernel", "--tarball", "/no/such"], "no host is given"),
        (["build-kernel", "--module", "--tarball", "x", "--host", "h"], "--tarball is for kernels"),
        (["status"], "no host is given"),
        (["status", "--host", "-oProxyCommand=x"], "no name of a host"),
        (["verify"], "no host is given"),
        (["uninstall"], "no host is given"),
        (["build-kernel", "--module", "--host", "a b"], "no name of a host"),
        (["rollback"], "no host is given"),
        (["patches.bump"], "which release?"),
        (["patches.bump", "--to", "5.5.1"], "no release of the series 5.4"),
        (["patches.bump", "--to", "5.4.9", "--source", "debian"], "cannot take another release"),
        (["patches.edit", "--done", "--output", "/no/such"], "no working tree at /no/such"),
        (["patches.edit", "--done", "--drop"], "exclude each other"),
        (["test", "--only", "bogus"], "no kind of test"),
        (["test", "--only", "host"], "./dev verify --host NAME"),
        (["test", "--count", "0"], "--count"),
        (["bench", "--only", "bogus"], "has no part 'bogus'"),
        (["bench", "--trials", "1"], "--trials"),
        (["vm.run"], "no command is given"),
        (["vm.run", "--name", "no-such-vm", "--", "true"], "no machine named no-such-vm"),
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_exit_2(words: list[str], says: str) -> None:
    done = invoke(*words)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and says in line


def test_words_after_the_dashes_keep_their_quoting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["dev", "vm.run", "--", "sh", "-c", "a  b", "--", "c"])
    assert frontend.words_after_dashes() == ["sh", "-c", "a  b", "--", "c"]


def test_a_report_ends_with_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    text = report(ProvisioningError("what", "why\nmore", "do this", log=log))
    assert text.splitlines()[0] == "error: what: why more; do this"
    assert text.splitlines()[1] == "  | line 85"
    assert text.endswith(f"whole log: {log}")


@pytest.mark.parametrize(("raised", "status"), [(UsageError("x"), 2), (KeyboardInterrupt(), 130)])
def test_a_task_ends_with_the_code_of_its_error(raised: BaseException, status: int) -> None:
    def work() -> None:
        raise raised

    with pytest.raises(SystemExit) as caught:
        frontend.run_task(work)
    assert caught.value.code == status


def test_the_single_file_runs_and_is_reproducible(tmp_path: Path) -> None:
    first, second = package.zipapp(tmp_path / "a.pyz"), package.zipapp(tmp_path / "b.pyz")
    assert first.read_bytes() == second.read_bytes()
    assert os.access(first, os.X_OK)
    with zipfile.ZipFile(first) as archive:
        assert all(name.startswith("gs/") or name == "__main__.py" for name in archive.namelist())
    done = subprocess.run([sys.executable, "-I", first, "--help"], capture_output=True, cwd="/")
    assert done.returncode == 0
    assert b"run" in done.stdout
