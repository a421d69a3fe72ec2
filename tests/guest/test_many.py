"""A large registry. Needs a machine with 2 GB: each process has its own memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness import program, registry, write_registry

EXE = program("do_nothing")


def test_ten_thousand_registrations() -> None:
    """One process each; a lookup, a listing and the end of them all stay quick."""
    count = 10_000
    # All that a kernel with CONFIG_BASE_SMALL can have.
    Path("/proc/sys/kernel/pid_max").write_text("32768")
    pids = fork_sleepers(count)
    try:
        assert len(pids) == count
        began = time.monotonic()
        for first in range(0, count, 1000):
            text = "".join(f"{pid} {EXE}\n" for pid in pids[first : first + 1000])
            assert write_registry(text) == len(text)
        listed = registry()
        took = time.monotonic() - began
        assert {int(line.split()[0]) for line in listed} == set(pids)
        assert listed[0].endswith(EXE)
        assert took < 60, f"10,000 registrations took {took:.1f} s"
    finally:
        for pid in pids:
            os.kill(pid, 9)
        for pid in pids:
            os.waitpid(pid, 0)
    assert registry() == []


def fork_sleepers(count: int) -> list[int]:
    """Processes that do nothing; vfork-cheap, since the guest is small."""
    return [
        os.posix_spawn(program("never_ends"), ["never_ends"], dict(os.environ))
        for _ in range(count)
    ]
