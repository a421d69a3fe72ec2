"""./dev on machines that lack something: what it says, and what it leaves alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from provisioning.config import REPO

TOOLS = ("dirname", "id", "stat", "sort", "tr", "grep", "ls", "cat", "df", "awk", "cksum", "flock")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The script alone, and a PATH with only what every Debian has."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("dev", "pyproject.toml"):
        shutil.copy(REPO / name, folder / name)
    (folder / "bin").mkdir()
    for tool in ("sh", "env", *TOOLS):
        found = shutil.which(tool)
        assert found
        (folder / "bin" / tool).symlink_to(found)
    return folder


def dev(clone: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the copy; the script itself appends the sbin directories, /usr/bin is not reachable."""
    return subprocess.run(
        [clone / "bin/sh", clone / "dev", *words],
        env={"PATH": str(clone / "bin"), "HOME": str(clone), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_shellcheck_has_nothing_to_say() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", REPO / "dev", REPO / ".ci/run"], check=True)


def test_another_distribution_gets_a_list(clone: Path) -> None:
    done = dev(clone, "build-kernel", GS_SKIP_CHECKS="1")  # no apt-get on this PATH
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    for package in ("flex", "bison", "qemu-system-x86", "rsync"):
        assert package in line
    assert not (clone / ".venv").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may install")
def test_without_a_terminal_nobody_is_asked(clone: Path) -> None:
    apt = clone / "bin/apt-get"
    apt.write_text("#!/bin/sh\nexit 99\n")
    apt.chmod(0o755)
    done = dev(clone, "lint")
    assert done.returncode == 3
    assert "apt-get update && apt-get install --no-install-recommends" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs without being asked")
def test_no_server_is_started_by_an_installation(clone: Path) -> None:
    """Debian's prometheus would listen to everybody; the tests start one of their own."""
    for name in ("apt-get", "systemctl"):
        program = clone / "bin" / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>{clone}/calls\nexit 9\n')
        program.chmod(0o755)
    done = dev(clone, "test", GS_SKIP_CHECKS="1")
    if "only Debian" in done.stderr:
        pytest.skip("this is no Debian")
    assert done.returncode == 3
    calls = (clone / "calls").read_text().splitlines()
    mask = "systemctl mask --quiet prometheus.service"
    installs = [call for call in calls if "install" in call and "prometheus" in call]
    assert installs and calls.index(mask) < calls.index(installs[0])


def test_too_little_room_is_said_first(clone: Path) -> None:
    df = clone / "bin/df"
    df.unlink()
    df.write_text("#!/bin/sh\necho head\necho fs 1 1 5000000 1% /\n")
    df.chmod(0o755)
    done = dev(clone, "demo")
    assert done.returncode == 3
    assert "only 5 GB are free" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (clone / ".venv").exists()


def test_words_for_the_vm_are_no_tasks(clone: Path) -> None:
    with_dashes = dev(clone, "lint", "--", "build-kernel").stderr
    assert "shellcheck" in with_dashes
    assert "flex" not in with_dashes


@pytest.mark.skipif(not (REPO / ".venv/.ready").exists(), reason="./dev did not set this up")
def test_a_second_run_is_quick() -> None:
    """Under a second of processor time, once; others on this machine make each run dearer."""

    def seconds() -> float:
        before = os.times()
        subprocess.run([REPO / "dev", "--list"], check=True, capture_output=True)
        after = os.times()
        used = after.children_user + after.children_system
        return used - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 1.0
