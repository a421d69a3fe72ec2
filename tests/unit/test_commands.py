"""The gateway to other programs: environment, time limits, and that nothing is left running."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provisioning import commands
from provisioning.config import REPO
from provisioning.errors import (
    CommandFailed,
    CommandTimedOut,
    DiskFull,
    Interrupted,
    MissingPackages,
)


def gone(pid: int, within: float = 5.0) -> bool:
    """Whether the process ends (or is only a zombie) in time."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_run_returns_both_streams() -> None:
    done = commands.run(["sh", "-c", "echo out; echo err >&2"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")


def test_stdin_is_empty_and_input_is_given() -> None:
    assert commands.run(["cat"]).stdout == ""
    assert commands.run(["cat"], input=b"word").stdout == "word"


def test_the_environment_is_a_white_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", "-j99")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    seen = commands.run(["env"], env={"EXTRA": "1"}).stdout
    assert "MAKEFLAGS" not in seen
    assert "LC_ALL=C.UTF-8\n" in seen
    assert "EXTRA=1\n" in seen


def test_a_failure_is_one_line_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(CommandFailed) as caught:
        commands.run(["sh", "-c", "echo before; echo broken >&2; exit 3"], log=log)
    assert str(caught.value) == "sh ended with 3: broken"
    assert caught.value.log == log
    assert "before\nbroken\n" in log.read_text()


def test_a_death_by_signal_is_said() -> None:
    with pytest.raises(CommandFailed, match="killed by signal 9"):
        commands.run(["sh", "-c", "kill -9 $$"])


def test_a_full_disk_is_told_as_such() -> None:
    """/dev/full answers every write with ENOSPC; the program's last words are about nothing."""
    with pytest.raises(DiskFull, match="No space left on device; make room") as caught:
        commands.run(["sh", "-c", "LC_ALL=C cp /etc/passwd /dev/full; echo giving up >&2; exit 2"])
    assert caught.value.exit_code == 3


def test_check_false_returns_the_status() -> None:
    assert commands.run(["false"], check=False).returncode == 1


def test_a_missing_program_names_itself() -> None:
    with pytest.raises(CommandFailed, match="no-such-program: no such program"):
        commands.run(["no-such-program"])
    with pytest.raises(MissingPackages, match="apt-get install --no-install-recommends pkg"):
        commands.which_or_hint("no-such-program", "pkg")


def test_a_timeout_kills_the_whole_group(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {pid_file}; wait"
    with pytest.raises(CommandTimedOut):
        commands.run(["sh", "-c", script], timeout=0.5)
    assert gone(int(pid_file.read_text()))


def test_stream_gives_lines_as_they_come(tmp_path: Path) -> None:
    lines: list[str] = []
    log = tmp_path / "log"
    done = commands.stream(["sh", "-c", "echo a; echo b >&2"], on_line=lines.append, log=log)
    assert sorted(lines) == ["a", "b"]
    assert done.returncode == 0
    assert log.read_text().splitlines()[1:] == lines


def test_stream_has_a_time_limit() -> None:
    began = time.monotonic()
    with pytest.raises(CommandTimedOut):
        commands.stream(["sh", "-c", "echo a; sleep 60"], on_line=lambda _: None, timeout=0.5)
    assert time.monotonic() - began < 10


def test_an_exception_in_on_line_ends_the_program(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    def fail(_: str) -> None:
        raise ValueError

    with pytest.raises(ValueError):
        script = f"echo $$ > {pid_file}; echo line; exec sleep 60"
        commands.stream(["sh", "-c", script], on_line=fail)
    assert gone(int(pid_file.read_text()))


def test_a_pipe_fails_when_either_side_does() -> None:
    assert commands.pipe(["echo", "word"], ["cat"]).stdout == "word\n"
    with pytest.raises(CommandFailed):
        commands.pipe(["sh", "-c", "echo word; exit 1"], ["cat"])
    with pytest.raises(CommandFailed):
        commands.pipe(["echo", "word"], ["false"])


PARENT = """
import sys
from provisioning import commands
child = commands.spawn(["sleep", "60"])
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_spawned_program_dies_with_its_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert not gone(pid, within=0.3)
    parent.kill()  # no clean-up code runs
    parent.wait()
    assert gone(pid)
    parent.stdout.close()
    if parent.stdin:
        parent.stdin.close()


CTRL_C = """
import sys
from provisioning import commands
from provisioning.errors import ProvisioningError
try:
    with commands.interruptible():
        commands.run(["sh", "-c", "echo $$ > %s; sleep 60"])
except ProvisioningError as error:
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_what_runs(tmp_path: Path, number: signal.Signals) -> None:
    pid_file = tmp_path / "pid"
    work = subprocess.Popen([sys.executable, "-c", CTRL_C % pid_file], cwd=REPO)
    end = time.monotonic() + 10
    while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    work.send_signal(number)
    assert work.wait(timeout=20) == Interrupted.exit_code == 130
    assert gone(int(pid_file.read_text()))


def test_own_signals_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with commands.interruptible():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
