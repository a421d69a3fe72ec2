"""The kernel's own detectors, where it has them: kmemleak's scans, and whether lockdep still looks.

kmemleak does not scan by itself in these kernels: a scan takes seconds, and would come in mid-test.
"""

from __future__ import annotations

import errno
import time
from pathlib import Path

import splats

KMEMLEAK = Path("/sys/kernel/debug/kmemleak")
LOCKDEP = Path("/proc/lockdep_stats")

#: Functions of ours begin so, in a leak's backtrace.
OURS = r"(?:gs_|graceful_shutdown)"

#: kmemleak takes nothing younger than five seconds for a leak.
AGE = 5.5


def forget_old_leaks() -> None:
    """What the kernel lost while it booted is not ours."""
    if KMEMLEAK.exists():
        _scan()
        KMEMLEAK.write_text("clear")


def leaks() -> list[str]:
    """Memory that code of ours has allocated, or a module that has gone (no other goes here), and
    nothing points to any more; two scans decide.

    AssertionError where the detector has given up meanwhile.
    """
    if not KMEMLEAK.exists():
        return []
    time.sleep(AGE)
    for _ in range(2):  # one finds what has no pointer, another that its content stays the same
        _scan()
    return splats.leaks_naming(KMEMLEAK.read_text(errors="replace"), OURS)


def lockdep_is_on() -> bool:
    """True too where there is none."""
    if not LOCKDEP.exists():
        return True
    words = dict(line.partition(":")[::2] for line in LOCKDEP.read_text().splitlines())
    return {key.strip(): value.strip() for key, value in words.items()}["debug_locks"] == "1"


def names() -> list[str]:
    """Which of them this kernel has, as far as user space can see."""
    found = {"kmemleak": KMEMLEAK.exists(), "lockdep": LOCKDEP.exists()}
    return [name for name, there in found.items() if there]


def _scan() -> None:
    try:
        KMEMLEAK.write_text("scan")
    except OSError as error:
        if error.errno == errno.EPERM:
            raise AssertionError("kmemleak has given up: see the kernel log") from None
        raise
