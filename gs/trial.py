"""A handler before it is needed: what it is made of, and a trial run as the kernel would start it.

The victim of a trial is a `sleep` that is made for it.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import tempfile
import time

from . import _sys
from .errors import InvalidHandler
from .handler import environment
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Sequence

#: The handler is started by a shell, and not by this process: the peak that the kernel counts for
#: a process begins with the size of its parent, and a Python's would hide it. It waits for a line
#: until that shell has ended, which might else take its exit status.
_START = 'exec 3<&0; { read -r line <&3; exec "$@" >&2 3<&-; } & echo $!'
#: Seconds between two looks at the memory of a handler and of what it started.
_INTERVAL = 0.002
_PT_INTERP = 3


# ---------------------------------------------------------------------------- what it is


class Image(Record):
    """An executable file: its size in bytes, and whether it is `static`, `dynamic` or a `script`,
    for which ``interpreter`` is the program that runs it (else None)."""

    __slots__ = ("interpreter", "kind", "size")

    def __init__(self, kind: str, size: int, interpreter: str | None = None) -> None:
        self.interpreter = interpreter
        self.kind = kind
        self.size = size


def look_at(path: str) -> Image:
    """What an executable file is; InvalidHandler if the kernel could not execute it.

    Formats that are registered with binfmt_misc are not known here, and refused.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except PermissionError:
        why = "it may be executed but not read, so that nothing can be said of it"
        raise InvalidHandler(f"handler {path}", why, "run this as root") from None
    size = os.path.getsize(path)
    if head.startswith(b"#!"):
        words = head[2:].split(b"\n")[0].split()
        return Image("script", size, os.fsdecode(words[0]) if words else None)
    if head.startswith(b"\x7fELF"):
        try:
            return Image("dynamic" if _has_interpreter(path, head) else "static", size)
        except (struct.error, ValueError, OSError):
            why = "it is a program whose end is missing, or damaged"
            raise InvalidHandler(f"handler {path}", why, "copy it once more") from None
    raise InvalidHandler(
        f"handler {path}",
        "the kernel cannot execute it: neither a program nor a script that says what runs it",
        "begin it with the line #!/bin/sh",
    )


def _has_interpreter(path: str, head: bytes) -> bool:
    """Whether an ELF file needs the dynamic linker (elf(5))."""
    order = "<" if head[5:6] == b"\1" else ">"
    wide = head[4:5] == b"\2"
    start = struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)[0]
    size, count = struct.unpack_from(order + "HH", head, 54 if wide else 42)
    with open(path, "rb") as file:
        file.seek(start)
        table = file.read(size * count)
    types = (struct.unpack_from(order + "I", table, n * size)[0] for n in range(count))
    return _PT_INTERP in types


# ---------------------------------------------------------------------------- how it runs


class Trial(Record):
    """How a trial ended: ``exit_status`` as in subprocess (minus a signal's number), None if it
    had to be killed; ``elapsed`` in seconds; ``peak_kb`` the most memory that it and what it
    started had; ``output`` the last line that it printed."""

    __slots__ = ("elapsed", "exit_status", "output", "peak_kb")

    def __init__(self, exit_status: int | None, elapsed: float, peak_kb: int, output: str) -> None:
        self.elapsed = elapsed
        self.exit_status = exit_status
        self.output = output
        self.peak_kb = peak_kb


def run(argv: Sequence[str], grace: float) -> Trial:
    """Run a handler once, for at most ``grace`` seconds, and end everything that it started."""
    before = set(_children(os.getpid()))
    victim = subprocess.Popen(["sleep", "86400"], stdin=subprocess.DEVNULL, cwd="/")
    _sys.adopt_orphans(True)
    try:
        with tempfile.TemporaryFile() as output:
            pid = _start(argv, _environment(victim.pid, grace), output)
            began = time.monotonic()
            status, peak_kb = _wait(pid, began + grace)
            elapsed = time.monotonic() - began
            output.seek(0)
            lines = output.read().decode("utf-8", "replace").split("\n")
        return Trial(status, elapsed, peak_kb, next(filter(None, reversed(lines)), ""))
    finally:
        _end_children(before | {victim.pid})
        _sys.adopt_orphans(False)
        victim.kill()
        victim.wait()


def _environment(victim: int, grace: float) -> dict[str, str]:
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return environment(
        victim,
        victim,
        "sleep",
        os.getuid(),
        None,
        _rss_kb(victim),
        round(grace * 1000),
        now + int(grace * 1e9),
        0,
    )


def _start(argv: Sequence[str], environment: dict[str, str], output: IO[bytes]) -> int:
    """Start the handler in its own session; its process number. It is this process's child then."""
    with subprocess.Popen(
        ["/bin/sh", "-c", _START, "sh", *argv],
        env=environment,
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=output,
        start_new_session=True,
    ) as shell:
        assert shell.stdin is not None and shell.stdout is not None
        pid = int(shell.stdout.readline())
        shell.wait()
        shell.stdin.write(b"\n")
    return pid


def _wait(pid: int, deadline: float) -> tuple[int | None, int]:
    """The exit status, None if it was killed at the deadline; and its peak of memory."""
    peak_kb = 0
    while time.monotonic() < deadline:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return _returncode(status), max(peak_kb, usage.ru_maxrss)
        peak_kb = max(peak_kb, _tree_kb(pid))
        time.sleep(_INTERVAL)
    os.kill(pid, signal.SIGKILL)
    _, _, usage = os.wait4(pid, 0)
    return None, max(peak_kb, usage.ru_maxrss)


def _returncode(status: int) -> int:
    """From the form of wait(2); os.waitstatus_to_exitcode() is not in Python 3.8."""
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _end_children(but: set[int]) -> None:
    """Kill the children of this process, and their own, which become ours by that."""
    while True:
        pids = set(_children(os.getpid())) - but
        if not pids:
            return
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


def _children(pid: int) -> list[int]:
    """The children of a process; none where the kernel does not list them."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    found = []
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += [int(child) for child in file.read().split()]
        except OSError:
            pass  # it has just ended
    return found


def _tree_kb(pid: int) -> int:
    """The resident memory of a process and all its descendants."""
    return _rss_kb(pid) + sum(_tree_kb(child) for child in _children(pid))


def _rss_kb(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024
    except (OSError, IndexError):
        return 0
