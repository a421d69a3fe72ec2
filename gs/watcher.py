"""The guard that works: waits for the group to be out of memory, and runs one grace after another.

It sleeps in poll(2) until something happens. Its other guard is one of the things it waits for.
"""

from __future__ import annotations

import os
import select

from . import _sys, cgroup, victims
from .session import Context, Grace, now_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterable, Sequence

    from .backends.guarded import WatchedGroup
    from .victims import Process

_SECOND = 1_000_000_000
#: Between two looks where nothing tells of what we wait for.
_INTERVAL = _SECOND // 20
#: How long a released program may take to meet its limit again, or a killed one to end.
_SETTLING, _DYING = _SECOND // 2, 10 * _SECOND
#: As the kernel does it: a process that was spared is armed again after so many of its graces.
_SPARED_FOR = 10


class Watcher:
    """Watches one group as long as anybody is in it. ``keeper_died`` replaces the other guard, and
    gives the new one's descriptor."""

    def __init__(
        self, context: Context, keeper_fd: int, keeper_died: Callable[[], int], target_fd: int
    ) -> None:
        self._context = context
        self._group: WatchedGroup = context.group
        self._keeper_fd = keeper_fd
        self._keeper_died = keeper_died
        #: Somebody whose end makes us look whether anybody is left: at first the program itself.
        self._member_fd = target_fd
        self._kills, self._ooms = self._group.kills(), self._group.ooms()
        #: Graces that are over and whose handlers have left processes behind.
        self._lingering: list[Grace] = []

    def run(self) -> None:
        """Until the group is empty. The group is armed already."""
        self._look()
        while True:
            ready = self._wait([self._group.notice, self._member_fd])
            if self._member_fd in ready and not self._next_member():
                break
            if self._group.notice in ready:
                self._group.acknowledge()
                self._look()
        while self._lingering:
            self._wait([], now_ns() + _INTERVAL)

    def _next_member(self) -> bool:
        """Wait for the end of somebody else; false if nobody is left."""
        os.close(self._member_fd)
        self._member_fd = -1
        for pid in cgroup.members(self._group.path):
            try:
                self._member_fd = _sys.pidfd_open(pid)
                return True
            except OSError:
                pass  # it has just ended
        return bool(cgroup.members(self._group.path)) and self._next_member()

    # ------------------------------------------------------------------ waiting

    def _wait(self, fds: Iterable[int], until: int | None = None) -> set[int]:
        """Which of the descriptors became ready, none at that time (ns on CLOCK_BOOTTIME)."""
        while True:
            poll = select.poll()
            poll.register(self._keeper_fd, select.POLLIN)
            for fd in fds:
                poll.register(fd, self._events(fd))
            ready = {fd for fd, _ in poll.poll(self._milliseconds(until))}
            self._lingering = [grace for grace in self._lingering if not grace.may_end()]
            if self._keeper_fd in ready:
                os.close(self._keeper_fd)
                self._keeper_fd = self._keeper_died()
            ready.discard(self._keeper_fd)
            if ready or (until is not None and now_ns() >= until):
                return ready

    def _events(self, fd: int) -> int:
        return self._group.events if fd == self._group.notice else select.POLLIN

    def _milliseconds(self, until: int | None) -> int | None:
        if self._lingering:
            until = min(until or now_ns() + _INTERVAL, now_ns() + _INTERVAL)
        # Rounded up, or the last millisecond would be spent in looking at the clock.
        return None if until is None else max((until - now_ns() + 999_999) // 1_000_000, 0)

    # ------------------------------------------------------------------ out of memory

    def _look(self) -> None:
        """What the notice means, which may be nothing at all."""
        # What is left in a tmpfs keeps a group full in which nobody is any more.
        while self._group.is_out_of_memory() and cgroup.members(self._group.path):
            self._handle()
        if self._has_killed():
            self._context.record_unforeseen_kill()

    def _handle(self) -> None:
        self._group.hold()
        limit_kb = self._group.limit() // 1024
        victim = victims.choose(cgroup.members(self._group.path), limit_kb)
        fd = None if victim is None else _pidfd_or_none(victim)
        if victim is None or fd is None:
            # Nobody may be killed, which is the kernel's to say, or somebody has just ended.
            self._group.release()
            self._wait([], now_ns() + _SETTLING)
            self._rearm()
            return
        grace = Grace(self._context, victim)
        try:
            covered = victims.covers(self._context.entry, victim)
            if covered:
                grace.run(self._wait, fd)
            self._decide(grace, fd, covered)
        finally:
            os.close(fd)
            if not grace.may_end():
                self._lingering.append(grace)

    def _decide(self, grace: Grace, victim_fd: int, covered: bool) -> None:
        """The kernel kills, or need not; then watch again."""
        pids, limit_kb = cgroup.members(self._group.path), self._group.limit() // 1024
        before = [grace.victim, *victims.weigh(pids, limit_kb)]
        figures = self._group.figures()
        self._group.release()
        if not self._is_killed(grace, victim_fd):
            self._spare(grace, victim_fd, covered)
        else:
            self._record_kill(grace, before, figures)
            # Else the next to meet the limit would be held while this one frees its memory.
            self._wait([victim_fd], now_ns() + _DYING)
        self._rearm()

    def _record_kill(
        self, grace: Grace, before: Sequence[Process], figures: dict[str, int | None]
    ) -> None:
        """Mostly of the victim that was foreseen; somebody else may have outgrown it since."""
        dying = [process.pid for process in before if victims.look_at(process.pid) is None]
        pid = grace.victim.pid if grace.victim.pid in dying or not dying else dying[0]
        killed = [process for process in before if process.pid == pid][-1]
        covered = victims.covers(self._context.entry, killed)
        outcome = grace.outcome if pid == grace.victim.pid else "none"
        self._context.record_kill(killed, outcome, covered, figures)

    def _is_killed(self, grace: Grace, victim_fd: int) -> bool:
        """Whether the kernel kills now: until it has, or there is memory again, or all is over."""
        settled = now_ns() + _SETTLING
        pause = _INTERVAL
        while True:
            # In this order: a kill that comes in between is counted before either can see it.
            over = not grace.victim.alive() or (now_ns() >= settled and self._group.is_relieved())
            if self._has_killed():
                return True
            if over:
                return False
            # Version 2 tells of a kill. It may not come for long: the limit is further away.
            ready = self._wait([victim_fd, self._group.notice], now_ns() + pause)
            pause = min(pause * 2, _SECOND)
            if self._group.notice in ready:
                self._group.acknowledge()

    def _has_killed(self) -> bool:
        """Whether the OOM killer has killed for this limit since the last time that this was asked.

        One that it kills for the limit of a group below, or for the machine, is none of ours.
        """
        kills = self._group.kills()
        if kills <= self._kills:
            return False
        before, self._ooms = self._ooms, self._group.ooms()
        self._kills = kills
        return self._ooms > before

    def _spare(self, grace: Grace, victim_fd: int, covered: bool) -> None:
        """Nothing was killed: the victim has ended by itself, or there is enough memory again."""
        if not covered:
            return
        if not grace.victim.alive():
            self._context.record("gone", grace.victim, elapsed_us=grace.elapsed_us())
            return
        free_kb = (self._group.limit() - self._group.usage()) // 1024
        self._context.record(
            "averted", grace.victim, elapsed_us=grace.elapsed_us(), free_kb=free_kb
        )
        self._wait([victim_fd], now_ns() + _SPARED_FOR * self._context.grace_ms * 1_000_000)

    def _rearm(self) -> None:
        try:
            self._group.arm()
        except OSError:
            pass  # it is gone, which the end of its last member tells


def _pidfd_or_none(victim: Process) -> int | None:
    """A descriptor of this very process; None if it has ended."""
    try:
        fd = _sys.pidfd_open(victim.pid)
    except OSError:
        return None
    if victim.alive():
        return fd
    os.close(fd)
    return None
