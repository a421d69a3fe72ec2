"""The backend of version 2: memory.high holds the program up shortly before its limit."""

from __future__ import annotations

import os
import select

from .. import cgroup
from .guarded import GuardedBackend, WatchedGroup, reserve_of

#: Of memory.high, what may not be reclaimable before it is time for a handler, in per cent.
_ACT_AT = 95


class Cgroup2Group(WatchedGroup):
    """Held up, not stopped: the more it takes beyond memory.high, the longer the kernel has it
    sleep. memory.events tells of it, for page cache too, which only makes us look."""

    events = select.POLLPRI

    def __init__(self, path: str, freezes: bool = False) -> None:
        super().__init__(path)
        self._freezes = freezes

    def arm(self) -> None:
        if self.notice < 0:
            self.notice = os.open(f"{self.path}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        self.acknowledge()
        self._write("memory.high", str(self._high()))

    def _high(self) -> int:
        return self.limit() - reserve_of(self.limit())

    def acknowledge(self) -> None:
        try:
            os.pread(self.notice, 4096, 0)
        except OSError:
            pass  # it is gone

    def is_out_of_memory(self) -> bool:
        needed = self.usage() - self._reclaimable()
        return needed * 100 >= self._high() * _ACT_AT

    def hold(self) -> None:
        # Right above memory.high the kernel hardly has it sleep: 2 % cost 26 ms, an eighth more
        # than a second, for each 32 pages of each thread. What needs no memory goes on.
        low = str(min(self.usage(), self._high()) * 7 // 8)
        name, value = ("cgroup.freeze", "1") if self._freezes else ("memory.high", low)
        try:
            self._write(name, value)
        except OSError:
            pass  # it is gone

    def is_relieved(self) -> bool:
        return not self.is_out_of_memory()

    def _reclaimable(self) -> int:
        stat = cgroup.read_table(f"{self.path}/memory.stat")
        keys = ["active_file", "inactive_file", "slab_reclaimable"]
        pages = sum(stat.get(key, 0) for key in keys)
        anonymous = stat.get("active_anon", 0) + stat.get("inactive_anon", 0)
        return pages + min(anonymous, self._swap_left())

    def _swap_left(self) -> int:
        machine = cgroup.read_file("/proc/meminfo").partition("SwapFree:")[2].split()
        free = int(machine[0]) * 1024 if machine else 0
        limit = self._number("memory.swap.max")
        if limit is None:
            return free
        return min(free, max(limit - (self._number("memory.swap.current") or 0), 0))

    def release(self) -> None:
        try:
            self._write("memory.high", "max")
            self._write("cgroup.freeze", "0")  # whoever has frozen it
        except OSError:
            pass  # it is gone

    def kills(self) -> int:
        return cgroup.read_table(f"{self.path}/memory.events").get("oom_kill", 0)

    def ooms(self) -> int:
        return cgroup.read_table(f"{self.path}/memory.events.local").get("oom", 0)

    def usage(self) -> int:
        return self._number("memory.current") or 0

    def limit(self) -> int:
        return self._number("memory.max") or 0

    def figures(self) -> dict[str, int | None]:
        return {
            "mem_kb": self._kb("memory.current"),
            "mem_max_kb": self._kb("memory.max"),
            "mem_low_kb": self._kb("memory.low"),
            "mem_swap_kb": self._kb("memory.swap.current"),
            "mem_swap_max_kb": self._kb("memory.swap.max"),
            "memsw_kb": None,
            "memsw_max_kb": None,
            "swappiness": cgroup.read_number("/proc/sys/vm/swappiness"),
        }


class Cgroup2Backend(GuardedBackend):
    """memory.high a reserve below memory.max, and memory.events."""

    name = "cgroup2"
    version = 2
    promise = (
        "throttled by `memory.high` a reserve below `memory.max`: the handler starts shortly before"
        " the limit; then the kernel decides at `memory.max`. Only as good as the race, whose rate"
        " we publish"
    )

    def watched(self, path: str) -> WatchedGroup:
        return Cgroup2Group(path, self.freezes)
