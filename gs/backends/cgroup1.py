"""The backend of version 1: memory.oom_control stops the kernel's decision, and tells of it."""

from __future__ import annotations

import os
import select

from .. import _sys, cgroup
from .guarded import GuardedBackend, WatchedGroup

_CONTROL = "memory.oom_control"
#: What may be free of a limit that is reached: each processor keeps some pages charged.
_SLACK = 1 << 20


class Cgroup1Group(WatchedGroup):
    """Held by the kernel itself: who meets the OOM in a fault stands still until it is released."""

    events = select.POLLIN

    def arm(self) -> None:
        if self.notice < 0:
            self.notice = _sys.eventfd()
            control = os.open(f"{self.path}/{_CONTROL}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._write("cgroup.event_control", f"{self.notice} {control}")
            finally:
                os.close(control)
        self._write(_CONTROL, "1")

    def acknowledge(self) -> None:
        try:
            os.read(self.notice, 8)
        except BlockingIOError:
            pass

    def is_out_of_memory(self) -> bool:
        # Groups below the one that is full are told so, too.
        return not self.is_relieved() and (self._is_full("memory") or self._is_full("memory.memsw"))

    def is_relieved(self) -> bool:
        return not cgroup.read_table(f"{self.path}/{_CONTROL}").get("under_oom")

    def _is_full(self, counter: str) -> bool:
        limit = self._number(f"{counter}.limit_in_bytes")
        usage = self._number(f"{counter}.usage_in_bytes")
        return limit is not None and usage is not None and usage + min(_SLACK, limit // 4) >= limit

    def release(self) -> None:
        try:
            self._write(_CONTROL, "0")
        except OSError:
            pass  # it is gone

    def kills(self) -> int:
        return cgroup.read_table(f"{self.path}/{_CONTROL}").get("oom_kill", 0)

    def ooms(self) -> int:
        return self.kills()  # those of groups below do not count there

    def usage(self) -> int:
        return self._number("memory.usage_in_bytes") or 0

    def limit(self) -> int:
        return self._number("memory.limit_in_bytes") or 0

    def figures(self) -> dict[str, int | None]:
        return {
            "mem_kb": self._kb("memory.usage_in_bytes"),
            "mem_max_kb": self._kb("memory.limit_in_bytes"),
            "mem_low_kb": None,
            "mem_swap_kb": None,
            "mem_swap_max_kb": None,
            "memsw_kb": self._kb("memory.memsw.usage_in_bytes"),
            "memsw_max_kb": self._kb("memory.memsw.limit_in_bytes"),
            "swappiness": self._number("memory.swappiness"),
        }


class Cgroup1Backend(GuardedBackend):
    """memory.oom_control and its eventfd."""

    name = "cgroup1"
    version = 1
    promise = (
        "`memory.oom_control`: at its limit a faulting thread stands still until the handler ends"
        " or the deadline passes, then the kernel kills. Only user-mode faults wait: a system call"
        " that needs memory meanwhile gets ENOMEM. Deprecated by the kernel"
    )

    def watched(self, path: str) -> WatchedGroup:
        return Cgroup1Group(path)
