"""The two versions of memory cgroups: what their files are called, and which of them is in use.

The memory controller is in one place at a time: at first in version 2. It can be moved to version
1 before there was any group. Back it goes only when nothing is charged to any group any more,
removed ones too; and what a processor still keeps charged from version 2 counts as "memory and
swap" in version 1, where any kernel, patched or not, warns of an underflow.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

#: Seconds until the kernel has switched the controller off in version 2.
MOVE_TIMEOUT = 20.0


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


def has_v1() -> bool:
    """Whether this kernel has the memory controller of version 1: since 6.11 an option, which
    Debian leaves out."""
    with Path("/proc/kallsyms").open(encoding="ascii") as lines:
        return any(line.split()[2] == "mem_cgroup_oom_control_write" for line in lines)


def move_to_v1() -> None:
    """From now on memory cgroups are of version 1."""
    (V2.root / "cgroup.subtree_control").write_text("-memory")
    V1.root.mkdir()
    command = ["mount", "-t", "cgroup", "-o", "memory", "memory", str(V1.root)]
    deadline = time.monotonic() + MOVE_TIMEOUT
    while subprocess.run(command).returncode != 0:
        assert time.monotonic() < deadline, "memory cgroups cannot be moved to version 1"
        time.sleep(0.5)
