"""The events of guarded runs: lines of the kernel's grammar, appended to a file of ours.

Each is one write(2). A lock file holds the number of the next record, so that several runs number
theirs without a gap; who holds it also renames a file that has become too long.
"""

from __future__ import annotations

import errno
import os
import time

from . import procfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Mapping

    from .procfile import Value

NAME = "events"
#: What the file before was renamed to.
OLD_NAME = "events.1"
_NUMBERS = "events.lock"
#: Some 2,000 records; the kernel keeps 1,024.
_LONGEST = 1 << 20


def append(directory: str, event: str, values: Mapping[str, Value]) -> int:
    """Write one record behind the others; its number, 0 if it could not be written.

    Raises nothing: a full disk, or a file that is not ours, is no reason to leave a program
    unguarded.
    """
    try:
        return _append(directory, event, values)
    except (OSError, ValueError):
        return 0


def _append(directory: str, event: str, values: Mapping[str, Value]) -> int:
    import fcntl

    os.makedirs(directory, 0o755, exist_ok=True)
    numbers = os.open(f"{directory}/{_NUMBERS}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(numbers, fcntl.LOCK_EX)
        seq = int(os.pread(numbers, 32, 0) or b"1")
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        record = {"seq": seq, "time_ns": now, "event": event, **values}
        line = os.fsencode(procfile.format_event(record)) + b"\n"
        # The record comes last, since nothing is to wake those who have read it.
        _set_number(numbers, seq + 1)
        try:
            _write(f"{directory}/{NAME}", line)
        except OSError:
            _set_number(numbers, seq)
            raise
    finally:
        os.close(numbers)  # and so unlocks
    return seq


def _set_number(numbers: int, seq: int) -> None:
    os.pwrite(numbers, b"%-20d" % seq, 0)


def _write(path: str, line: bytes) -> None:
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(log).st_size + len(line) > _LONGEST:
            os.rename(path, os.path.join(os.path.dirname(path), OLD_NAME))
            os.close(log)
            log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _write_whole(log, line)
    finally:
        os.close(log)


def _write_whole(log: int, line: bytes) -> None:
    """All of it or nothing: what a full disk leaves of a line would spoil the next one, too."""
    size = os.fstat(log).st_size
    if os.write(log, line) < len(line):
        os.ftruncate(log, size)  # nobody else writes: the lock is held
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
