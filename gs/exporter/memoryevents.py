"""How many processes of each memory cgroup were killed, as the kernel counts it: all that is left
of kills whose lines the kernel log has lost."""

from __future__ import annotations

import os

from .. import cgroup

#: Counts of groups that are gone are forgotten when there are so many.
_MANY = 1000

#: By the version of memory cgroups. A group's own processes only, and in any OOM, since Linux 5.2
#: and 4.13: memcg_memory_event() in include/linux/memcontrol.h.
_FILES = {1: "memory.oom_control", 2: "memory.events.local"}


class KilledIn:
    """Of the kernel's counts, how much is accounted for: by lines that were read, or as lost.

    ``counts``: as they were kept. Groups are known by their paths, as the kernel log has them; what
    a group was that is gone cannot be told any more, nor what one was that came in its place.
    """

    def __init__(self, counts: dict[str, int]) -> None:
        self.counts = counts

    def told(self, group: str) -> None:
        """The kernel log told of a kill there."""
        self.counts[group] = self.counts.get(group, 0) + 1
        if len(self.counts) > _MANY:
            now = kills_by_group()
            self.counts = {group: count for group, count in self.counts.items() if group in now}

    def missing(self, now: dict[str, int], at_most: int) -> dict[str, int]:
        """By group, the kills that are not accounted for, and are from now on."""
        missing = {}
        for group, count in now.items():
            lost = min(count - self.counts.get(group, 0), at_most)
            if lost > 0:
                missing[group] = lost
                at_most -= lost
        self.counts = now
        return missing


def kills_by_group() -> dict[str, int]:
    """Path → kills, of the groups that are there and had any."""
    where = cgroup.hierarchy()
    if where is None:
        return {}
    found = {}
    for directory, _, _ in os.walk(where.mount):
        kills = cgroup.read_table(f"{directory}/{_FILES[where.version]}").get("oom_kill", 0)
        if kills:
            found[directory[len(where.mount) :] or "/"] = kills
    return found
