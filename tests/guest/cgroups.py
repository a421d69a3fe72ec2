"""The two versions of memory cgroups: what their files are called, and which of them is in use.

The memory controller is in one place at a time. It is moved while the machine runs, which the
kernel allows when no group is left, not even a removed one that some page is still charged to.
Once to version 1 and once back is enough for a boot: charges that a processor keeps from version 2
count as "memory and swap" in version 1, and the kernel, patched or not, warns of an underflow.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: Seconds that pages of removed groups may take to go, emulated.
MOVE_TIMEOUT = 120.0


@dataclass(frozen=True)
class Version:
    """Where the groups are, and the names of the files in each."""

    root: Path
    limit: str
    #: A limit on swap; on memory and swap together in version 1.
    swap: str
    usage: str
    #: Has a line "oom_kill N".
    kills: str

    def swap_limit(self, memory: int, swap: int) -> int:
        """What is to be written into ``swap``, in bytes."""
        return swap if self is V2 else memory + swap


V1 = Version(
    root=Path("/run/cgroup-memory"),
    limit="memory.limit_in_bytes",
    swap="memory.memsw.limit_in_bytes",
    usage="memory.usage_in_bytes",
    kills="memory.oom_control",
)
V2 = Version(
    root=Path("/sys/fs/cgroup"),
    limit="memory.max",
    swap="memory.swap.max",
    usage="memory.current",
    kills="memory.events",
)


def in_use() -> Version:
    """The version that has the memory controller now."""
    return V2 if "memory" in (V2.root / "cgroup.controllers").read_text().split() else V1


def enable() -> None:
    """Groups of version 2 below the root may have limits."""
    (V2.root / "cgroup.subtree_control").write_text("+memory")


def move_to_v1() -> None:
    """From now on memory cgroups are of version 1."""
    (V2.root / "cgroup.subtree_control").write_text("-memory")
    V1.root.mkdir(exist_ok=True)
    _until(_mount, "the memory controller cannot be moved to version 1")


def move_to_v2() -> None:
    """From now on memory cgroups are of version 2, as they are at the start."""

    def moved() -> bool:
        """What is left of version 1 ends with an unmount that finds no group in it, a bit later."""
        if not V1.root.is_mount():
            assert _mount()
        subprocess.run(["umount", V1.root], check=True)
        deadline = time.monotonic() + 1
        while in_use() is not V2 and time.monotonic() < deadline:
            time.sleep(0.01)
        return in_use() is V2

    _until(moved, "the memory controller does not come back to version 2")
    enable()


@contextmanager
def version_one() -> Iterator[None]:
    """Memory cgroups are of version 1 for the length of the block."""
    move_to_v1()
    try:
        yield
    finally:
        move_to_v2()


def _mount() -> bool:
    command = ["mount", "-t", "cgroup", "-o", "memory", "memory", str(V1.root)]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def _until(done: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + MOVE_TIMEOUT
    while not done():
        assert time.monotonic() < deadline, f"{problem} within {MOVE_TIMEOUT} s"
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        time.sleep(0.1)
