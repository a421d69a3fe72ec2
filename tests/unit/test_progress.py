"""What long work prints where stderr is no terminal: a line a minute, from the innermost step."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from provisioning import progress

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of 0.2 s."""
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.2)


def test_a_step_without_a_bar_says_that_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.step("unpacking"):
        time.sleep(0.7)
    first, *between, last = capsys.readouterr().err.splitlines()
    assert first == "> unpacking" and last.startswith("  done in 0.7 s")
    assert 2 <= len(between) <= 3
    assert all(line.startswith("  unpacking: ") and line.endswith(" s so far") for line in between)


def test_the_innermost_step_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.step("outer"):
        with progress.step("inner"):
            time.sleep(0.3)
        time.sleep(0.3)
    said = [line for line in capsys.readouterr().err.splitlines() if line.endswith("so far")]
    assert [line.split(":")[0].strip() for line in said] == ["inner", "outer"]


def test_a_bar_speaks_for_its_step(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.step("building"), progress.bar("compiling", 100, "files") as bar:
        for _ in range(35):
            bar.update()
            time.sleep(0.02)
    said = capsys.readouterr().err.splitlines()[1:-1]
    assert said and all(line.startswith("  compiling: ") for line in said)


def test_a_short_step_says_nothing_between(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.step("short"):
        pass
    time.sleep(0.4)
    assert len(capsys.readouterr().err.splitlines()) == 2


#: Two hosts, the second with nothing more to do than the first.
ROWS = """\
import time
from provisioning.progress import bar, rows
with bar("installing", total=2, unit="hosts") as done, rows() as shown:
    shown.say("a.example", "sending")
    shown.say("b.example", "sending")
    shown.say("a.example", "booting")
    time.sleep(1.1)
    shown.refresh()
    shown.end("a.example")
    shown.end("c.example")
    done.update()
"""


def test_each_host_has_a_row_of_its_own_on_a_terminal() -> None:
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    child = subprocess.Popen([sys.executable, "-c", ROWS], stderr=terminal, cwd=ROOT)
    os.close(terminal)
    drawn = b""
    try:
        while block := os.read(controller, 4096):
            drawn += block
    except OSError:  # EIO: nobody has the terminal open any more
        pass
    os.close(controller)
    assert child.wait() == 0, drawn.decode()
    for row in (
        b"a.example: sending 00:00",
        b"a.example: booting 00:01",
        b"b.example: sending 00:01",
    ):
        assert row in drawn, drawn.decode()
    last = drawn.rpartition(b"b.example: sending 00:01")[2]
    assert b"1/2" in last and b"example" not in last


def test_elsewhere_each_says_its_own_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.rows() as shown:
        shown.say("a.example", "sending")
        shown.refresh()
        shown.end("a.example")
    assert capsys.readouterr().err == "  a.example: sending\n"
