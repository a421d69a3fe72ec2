"""The kernel's own counts of OOM kills, which tell of those whose lines its log has lost.

`oom_kill` in /proc/vmstat is the machine's. That of a memory cgroup, memory.events.local (version
2) or memory.oom_control (version 1), counts its own processes alone, whoever was out of memory.
"""

from __future__ import annotations

import os

from .. import cgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Tuple

    from ..cgroup import Hierarchy

    #: Path of a group, as the kernel log has it → its inode, since another may get its name after
    #: it, and its count. Groups without any kill are left out.
    Table = Dict[str, Tuple[int, int]]


def kills_of_machine(path: str = "/proc/vmstat") -> int | None:
    """Since boot, in memory cgroups and outside (Linux 4.13)."""
    return cgroup.read_table(path).get("oom_kill")


def kills_of_groups(where: Hierarchy | None) -> Table:
    """Those of the groups that are there, but for those of single runs, of which guards tell."""
    if where is None or not _is_whole(where):
        return {}
    name = "memory.events.local" if where.version == 2 else "memory.oom_control"
    table: Table = {}
    for directory, below, _ in os.walk(where.mount):
        below[:] = [child for child in below if not child.startswith(cgroup.PREFIX)]
        count = cgroup.read_table(f"{directory}/{name}").get("oom_kill")
        if count:
            try:
                inode = os.stat(directory).st_ino
            except OSError:
                continue  # it has just been removed
            table[directory[len(where.mount) :] or "/"] = (inode, count)
    return table


def _is_whole(where: Hierarchy) -> bool:
    """Whether its top is that of the machine: else the kernel log calls its groups otherwise."""
    if where.version == 2:
        return not os.path.exists(f"{where.mount}/cgroup.type")
    return os.path.exists(f"{where.mount}/release_agent")


class Accounts:
    """What the counts of the groups were when every kill was accounted for, and what has been told
    and lost since: the rest of what a count rose by was lost in that group."""

    def __init__(self, state: dict[str, Any] | None) -> None:
        """``state``: what :attr:`state` was; None: what came before is not known."""
        known = state or {}
        self._counts: Table | None = None
        if known.get("counts") is not None:
            self._counts = {path: (inode, n) for path, (inode, n) in known["counts"].items()}
        self._told: dict[str, int] = dict(known.get("told", {}))
        #: Kills of which the log told that they were there or in a group below.
        self._told_below: dict[str, int] = dict(known.get("told_below", {}))
        #: Kills of which the log told, but not where.
        self._unplaced: int = known.get("unplaced", 0)
        self._lost: int = known.get("lost", 0)

    @property
    def settled(self) -> bool:
        """Whether there is nothing to be found out."""
        told = self._told or self._told_below or self._unplaced
        return self._counts is not None and not (told or self._lost)

    @property
    def state(self) -> dict[str, Any]:
        """For the next time."""
        return {
            "counts": self._counts,
            "told": self._told,
            "told_below": self._told_below,
            "unplaced": self._unplaced,
            "lost": self._lost,
        }

    def tell(self, memcg: object, or_below: bool = False) -> None:
        """The log has told of a kill there."""
        if isinstance(memcg, str):
            told = self._told_below if or_below else self._told
            told[memcg] = told.get(memcg, 0) + 1
        else:
            self._unplaced += 1

    def lose(self, count: int) -> None:
        """So many kills have no lines."""
        self._lost += count

    def settle(self, counts: Table) -> dict[str, int]:
        """How many of the lost ones were in which group; all begins anew with these counts.

        One that was told without its place may have been in any group, or in any of some, and so is
        none that was lost there for certain.
        """
        found: dict[str, int] = {}
        if self._lost and self._counts is not None:
            for path, (inode, count) in counts.items():
                before = self._counts.get(path, (inode, 0))
                rose = count - before[1] if before[0] == inode else count
                missing = rose - self._told.get(path, 0) - self._perhaps_in(path)
                if missing > 0:
                    found[path] = missing
        if sum(found.values()) > self._lost:
            found = {}  # they do not speak of the same groups
        self._counts, self._told, self._told_below = counts, {}, {}
        self._unplaced = self._lost = 0
        return found

    def _perhaps_in(self, path: str) -> int:
        """How many of those that were told may have been in this group."""
        above = [count for group, count in self._told_below.items()
                 if f"{path}/".startswith(f"{group.rstrip('/')}/")]  # fmt: skip
        return self._unplaced + sum(above)
