"""The sources of events, each with a position that outlives the process that reads it."""

from __future__ import annotations

import os

from .. import cgroup
from ..backends.cgroup1 import Cgroup1Group
from ..backends.cgroup2 import Cgroup2Group
from ..errors import MalformedLine
from ..eventstream import EventStream, OomEvent
from .kernellog import KernelLog
from .memoryevents import Accounts, kills_of_groups, kills_of_machine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator

    from ..backends.guarded import WatchedGroup

#: Their names in the exposition: the kernel's own events, the guards of runs, the kernel log.
KERNEL, GUARDS, LOG = "kernel", "guards", "kernel_log"

#: What of a group's figures is the same after the kill as before.
_LASTING = ("mem_max_kb", "mem_low_kb", "mem_swap_max_kb", "memsw_max_kb", "swappiness")


class Stream:
    """An event stream and how far it was read: ``seq`` and ``time_ns`` of the last record, None
    before there was one. ``lost`` grows by what was overwritten before it was read.

    Numbers are dense, so that a gap is counted exactly. A record with a number that was read
    already, but a later time, is of a stream that began anew: the module was loaded again.
    """

    def __init__(self, name: str, stream: EventStream, position: dict[str, int] | None) -> None:
        self.name = name
        self.lost = 0
        self._stream = stream
        self._seq = None if position is None else position["seq"]
        self._time_ns = 0 if position is None else position["time_ns"]

    @property
    def position(self) -> dict[str, int] | None:
        """For the next time."""
        return None if self._seq is None else {"seq": self._seq, "time_ns": self._time_ns}

    def fileno(self) -> int:
        """Readable when there is more."""
        return self._stream.fileno()

    def close(self) -> None:
        """Close the files."""
        self._stream.close()

    def __iter__(self) -> Iterator[OomEvent]:
        """What is there now and was not read yet; no ``lost``."""
        while True:
            try:
                for event in self._stream:
                    if self._is_new(event):
                        yield event
                return
            except MalformedLine:
                pass  # its number is missing then, and so it counts as lost

    def _is_new(self, event: OomEvent) -> bool:
        if event.event == "lost":
            self._take_lost(event)
            return False
        time_ns = event["time_ns"]
        assert isinstance(time_ns, int)
        if self._seq is not None and event.seq <= self._seq:
            if time_ns <= self._time_ns:
                return False
            self._seq = 0
        if self._seq is not None:
            self.lost += event.seq - self._seq - 1
        self._seq, self._time_ns = event.seq, time_ns
        return True

    def _take_lost(self, event: OomEvent) -> None:
        """Its number is that of the last record that is no longer there."""
        count = event["count"]
        assert isinstance(count, int)
        if self._seq is None:
            self.lost += count
        else:
            self.lost += max(event.seq - self._seq, 0)
        self._seq = max(event.seq, self._seq or 0)


class Log:
    """The kernel log and how far it was read. It has other records than ours, so that a gap tells
    nothing by itself: what was in it follows from the kernel's own count of kills."""

    name = LOG

    def __init__(self, log: KernelLog, position: dict[str, Any] | None) -> None:
        self.lost = 0
        self._log = log
        #: Of the kernel's count, how much has been read or counted as lost; None: not known yet.
        self._accounted: int | None = None if position is None else position["accounted"]
        self._groups = Accounts(None if position is None else position.get("groups"))
        #: The two counts when those of the groups were looked at last.
        self._looked = (self._accounted, self._accounted) if self._groups.settled else None

    @classmethod
    def open(cls, position: dict[str, Any] | None) -> Log:
        """OSError if it cannot be read."""
        known = position or {}
        return cls(KernelLog(seq=known.get("seq"), state=known.get("reports")), position)

    @property
    def position(self) -> dict[str, Any] | None:
        """For the next time."""
        if self._log.seq is None:
            return None
        return {
            "seq": self._log.seq,
            "accounted": self._accounted,
            "groups": self._groups.state,
            "reports": self._log.state,
        }

    def fileno(self) -> int:
        """Readable when there is more."""
        return self._log.fd

    def close(self) -> None:
        """Close the file."""
        self._log.close()

    def place_of(self, pid: int | None) -> str | None:
        """The cgroup of a victim, as far as the kernel log has told it lately."""
        return self._log.place_of(pid)

    def __iter__(self) -> Iterator[OomEvent]:
        """The kills in what is there now and was not read yet."""
        while True:
            before = kills_of_machine()
            for event in self._log:
                if self._accounted is not None:
                    self._accounted += 1
                self._groups.tell(event.get("memcg"), or_below=bool(event.get("group")))
                if event.event == "kill":
                    yield _with_limits(event)
            now = kills_of_machine()
            if now == before:
                break  # else one may have been counted whose line was not there yet
        if now is None:
            return
        if self._log.gap and self._accounted is not None:
            lost = max(now - self._accounted, 0)
            self.lost += lost
            self._groups.lose(lost)
        if self._log.gap or self._accounted is None:
            self._accounted = now
        self._log.gap = False

    def lost_in_groups(self) -> dict[str, int]:
        """How many of those that were lost were in which memory cgroup, as far as the groups that
        are still there tell. They are asked when kills have been counted since the last time."""
        now = kills_of_machine()
        if now is None or (now, self._accounted) == self._looked:
            return {}
        counts = kills_of_groups(cgroup.hierarchy())
        if kills_of_machine() != now:
            return {}  # the next time, when it is quiet
        self._looked = (now, self._accounted)
        return self._groups.settle(counts) if now == self._accounted else {}

    def forget_losses(self) -> None:
        """Another source tells of all that is lost here."""
        self.lost = 0
        self._groups = Accounts(None)
        self._looked = None


def _with_limits(event: OomEvent) -> OomEvent:
    """With the limits of the victim's group, where that is still there."""
    memcg, where = event.get("memcg"), cgroup.hierarchy()
    if not isinstance(memcg, str) or where is None:
        return event
    path = f"{where.mount}{memcg}".rstrip("/")
    if not os.path.isdir(path):
        return event
    group: WatchedGroup = (Cgroup1Group if where.version == 1 else Cgroup2Group)(path)
    figures = group.figures()
    return OomEvent({**event.data, **{key: figures[key] for key in _LASTING}})
