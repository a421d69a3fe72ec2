"""What all parts of the benchmark need of the guest: its settings, progress, the C clocks."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import cgroups
from harness import program

#: What the host looks for in our output.
PROGRESS = "progress"


def prepare() -> None:
    """Groups may have limits; reports of OOMs are short, since a serial line is slow."""
    cgroups.enable()
    Path("/proc/sys/vm/oom_dump_tasks").write_text("0")


class Progress:
    """One line for each step; the host makes a bar of them."""

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        print(f"{PROGRESS} {self._done} {self._total}", flush=True)


class Clock:
    """A test program that measures at our word, and answers each with a line of numbers.

    It is another program than this one, since an interpreter is no clock: emulated, the way back
    from wait() alone takes it half a millisecond.
    """

    def __init__(self, name: str, *words: str) -> None:
        self.process = subprocess.Popen(
            [program(name), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        ready = self._answer()
        assert ready == "ready", f"{name} says {ready!r}"

    def ask(self, command: str = "") -> list[int]:
        """Let it measure once."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return [int(word) for word in self._answer().split()]

    def close(self) -> None:
        """End of input: it ends."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def _answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def clock_kills(group: Path, count: int, handler: Sequence[str] = ()) -> list[int]:
    """Nanoseconds from the touch that met the OOM to the end of the process; one child each."""
    words = [program("kill_clock"), "--count", str(count)]
    words += ["--handler", " ".join(handler)] if handler else []
    done = subprocess.run([*words, str(group)], stdout=subprocess.PIPE, text=True, check=True)
    rows = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    assert len(rows) == count, done.stdout
    return [ended - touched for _, touched, ended in rows]
