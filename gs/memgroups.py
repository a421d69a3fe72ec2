"""One reading of the memory cgroups: who is in each, its limit and use, and what an OOM does there.

The files of a group are read once, whoever is in it; groups in which nobody is are left out.
"""

from __future__ import annotations

import os

from .cgroup import read_file, read_number, read_table
from .proctree import PAGE
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from .cgroup import Hierarchy

ROOT = "/"


class MemGroup(Record):
    """A memory cgroup; ``path`` is from the mount of its hierarchy on, ``limit`` and ``usage`` are
    bytes (None: no limit; the root tells no use).

    ``kills_all`` is memory.oom.group, None where there is none (version 1). ``total`` is what
    the kernel weighs oom_score_adj with, in pages: the limit, and the swap that may be used
    beside it; None without a limit. ``kills_none`` tells of version 1 that its OOM killer is off,
    ``alone`` that groups below do not count there.
    """

    __slots__ = (
        "alone",
        "kills_all",
        "kills_none",
        "limit",
        "path",
        "pids",
        "total",
        "usage",
        "version",
    )

    def __init__(
        self,
        path: str,
        version: int = 2,
        pids: tuple[int, ...] = (),
        limit: int | None = None,
        usage: int | None = None,
        kills_all: bool | None = None,
        total: int | None = None,
        kills_none: bool = False,
        alone: bool = False,
    ) -> None:
        self.path = path
        self.version = version
        self.pids = pids
        self.limit = limit
        self.usage = usage
        self.kills_all = kills_all
        self.total = total
        self.kills_none = kills_none
        self.alone = alone


def parent_of(path: str) -> str | None:
    """The path of the group above, None above the root."""
    return None if path == ROOT else os.path.dirname(path)


def is_within(path: str, above: str) -> bool:
    """Whether a group is the other one, or below it."""
    return above == ROOT or path == above or path.startswith(above + "/")


def read(where: Hierarchy, swap_pages: int) -> dict[str, MemGroup]:
    """The groups below the mount of the hierarchy that anybody is in, or below, by their paths;
    ``swap_pages`` is all the swap of the machine."""
    swappiness = read_number("/proc/sys/vm/swappiness")
    return {
        path: _read_one(where, path, pids, swap_pages, swappiness != 0)
        for path, pids in _inhabited(where.mount)
    }


def _inhabited(mount: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    above: set[str] = set()
    # From below, so that a group is known to have somebody below it.
    for directory, _, _ in os.walk(mount, topdown=False):
        pids = tuple(map(int, read_file(f"{directory}/cgroup.procs").split()))
        path = directory[len(mount) :] or ROOT
        if pids or path in above:
            above.add(parent_of(path) or ROOT)
            yield path, pids


def _read_one(
    where: Hierarchy, path: str, pids: tuple[int, ...], swap_pages: int, swaps: bool
) -> MemGroup:
    directory = where.mount + path.rstrip("/")
    limit = read_number(f"{directory}/{where.limit_file}")
    usage = read_number(f"{directory}/{where.usage_file}")
    group = MemGroup(path, where.version, pids, limit, usage)
    if where.version == 2:
        together = read_file(f"{directory}/memory.oom.group").strip()
        group.kills_all = together == "1" if together else None
    else:
        # A group of version 1 has a swappiness of its own, but for the root.
        own = read_number(f"{directory}/memory.swappiness") if path != ROOT else None
        swaps = swaps if own is None else own != 0
        group.kills_none = _kills_none(directory)
        group.alone = read_number(f"{directory}/memory.use_hierarchy") == 0
    if limit is not None:
        group.total = limit // PAGE + (_swap(where, directory, limit, swap_pages) if swaps else 0)
    return group


def _kills_none(directory: str) -> bool:
    return read_table(f"{directory}/memory.oom_control").get("oom_kill_disable") == 1


def _swap(where: Hierarchy, directory: str, limit: int, swap_pages: int) -> int:
    """Pages of swap beside the limit. Source: mm/memcontrol.c, mem_cgroup_get_max()."""
    most = read_number(f"{directory}/{where.swap_file}")
    if most is None:
        return swap_pages
    if where.version == 1:
        most -= limit
    return min(most // PAGE, swap_pages)
