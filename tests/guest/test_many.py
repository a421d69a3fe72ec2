"""A large registry. Needs a machine with 2 GB: each process has its own memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from harness import SLOWER, program, registry, write_registry

EXE = program("do_nothing")


def test_ten_thousand_registrations() -> None:
    """One process each; a lookup, a listing and the end of them all stay quick."""
    count = int(10_000 / SLOWER)
    # All that a kernel with CONFIG_BASE_SMALL can have; and more than a small machine may.
    Path("/proc/sys/kernel/pid_max").write_text("32768")
    Path("/proc/sys/kernel/threads-max").write_text("32768")
    pids: list[int] = []
    try:
        spawn_sleepers(pids, count)
        began = time.monotonic()
        for first in range(0, count, 1000):
            text = "".join(f"{pid} {EXE}\n" for pid in pids[first : first + 1000])
            assert write_registry(text) == len(text)
        listed = registry()
        took = time.monotonic() - began
        assert {int(line.split()[0]) for line in listed} == set(pids)
        assert listed[0].endswith(EXE)
        assert took < 60 * SLOWER, f"10,000 registrations took {took:.1f} s"
        refused_batch(pids)
        assert registry() == listed
    finally:
        for pid in pids:
            os.kill(pid, 9)
        for pid in pids:
            os.waitpid(pid, 0)
    assert registry() == []


def refused_batch(pids: list[int]) -> None:
    """Remove all of them in one write whose last line fails: taken back, quickly, in order."""
    began = time.monotonic()
    with pytest.raises(ProcessLookupError):
        write_registry("".join(f"-{pid}\n" for pid in (*pids, os.getpid())))
    took = time.monotonic() - began
    assert took < 5 * SLOWER, f"taking 10,000 removals back took {took:.1f} s"


def spawn_sleepers(pids: list[int], count: int) -> None:
    """Add processes that do nothing; vfork-cheap, since the guest is small."""
    for _ in range(count):
        pids.append(os.posix_spawn(program("never_ends"), ["never_ends"], dict(os.environ)))
