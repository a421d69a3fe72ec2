"""The kernel log, /dev/kmsg, as a source of kills, where no kernel of ours tells of them itself.

Takes the two lines that name a victim, `oom-kill:` (since Linux 5.0) and `Killed process`, and the
one that names a cgroup whose members are killed with it (memory.oom.group, since 4.19); their
grammar is that of :mod:`gs.oomlog`.
"""

from __future__ import annotations

import errno
import os
import re

from ..eventstream import OomEvent
from ..oomlog import messages, telling
from ..oomlog.facts import Report
from ..oomlog.lines import Line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterator, Optional, Tuple, TypeVar

    from ..procfile import Value

    #: What a summary says of the chosen one: its constraint, the cgroup whose limit was reached,
    #: and its own one.
    Place = Tuple[Optional[str], Optional[str], Optional[str]]

    T = TypeVar("T")

_RECORD = 8192  # the most that the kernel gives at once: CONSOLE_EXT_LOG_MAX
_KEPT_PLACES = 256
#: Microseconds between two members of a cgroup that is killed, at most; a slow console takes some.
_TOGETHER = 1_000_000

_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


class KernelLog:
    """An open kernel log. Iterating gives the kills in what is there now and behind ``seq``, the
    number of the last record read (-1: from the oldest). ``gap`` turns true when records were
    overwritten before they were read. ``state``: what :attr:`state` was there. OSError if it cannot
    be opened."""

    def __init__(
        self, path: str = "/dev/kmsg", seq: int | None = None, state: dict[str, Any] | None = None
    ) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.seq = seq
        self.gap = False
        self._reports = Reports(state)

    @property
    def state(self) -> dict[str, Any]:
        """What the next lines go on with."""
        return self._reports.state

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)

    def place_of(self, pid: int | None) -> str | None:
        """The cgroup of a process that the kernel log said was chosen, if it did lately."""
        return self._reports.places.get(-1 if pid is None else pid)

    def __iter__(self) -> Iterator[OomEvent]:
        while True:
            try:
                record = os.read(self.fd, _RECORD)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                self.gap = True  # the next read goes on with the oldest that is left
                continue
            if not record:
                return  # a recorded log
            for line in record.splitlines():
                # The kernel gives one at a time; below it, indented, come words about a device.
                event = None if line.startswith(b" ") else self._take(line)
                if event is not None:
                    yield event

    def _take(self, record: bytes) -> OomEvent | None:
        """Documentation/ABI/testing/dev-kmsg: "prefix,seq,microseconds,flags;text"."""
        head, _, text = record.partition(b";")
        fields = head.split(b",")
        prefix, seq, microseconds = (int(field) for field in fields[:3])
        if self.seq is not None:
            if seq <= self.seq:
                return None
            self.gap = self.gap or seq > self.seq + 1
        self.seq = seq
        if prefix >> 3:
            return None  # somebody else's than the kernel's; it sees to that
        line = os.fsdecode(_unescaped(text))
        data = self._reports.feed(line, microseconds)
        if data is None:
            return None
        return OomEvent({"seq": seq, "time_ns": microseconds * 1000, **data})


class Reports:
    """Puts the lines of a kill together. ``places``: of the last victims, by process number, the
    cgroup they were in. ``state``: what :attr:`state` was before."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        known = state or {}
        self.places: dict[int, str] = {}
        self._summaries: dict[int, Place] = {
            pid: tuple(place) for pid, place in known.get("summaries", ())
        }
        #: The last one that was chosen, and those that are killed with it.
        self._together = _Together(**known["together"]) if known.get("together") else None

    @property
    def state(self) -> dict[str, Any]:
        """For the next time: a kill may be told in part."""
        together = self._together
        return {
            "summaries": list(self._summaries.items()),
            "together": None if together is None else together.__dict__,
        }

    def feed(self, line: str, microseconds: int = 0) -> dict[str, Value] | None:
        """The record of a kill when the line, of this time, ends one, with what the kernel log can
        tell of it.

        ``memcg`` is the victim's cgroup, ``limit_memcg`` the one whose limit was reached. Where
        ``group`` is 1 it was killed with the chosen one, and ``memcg`` is the cgroup that both are
        in, which may be above its own. The event is ``again`` where the kernel kills the chosen one
        once more, as a member: it counts that, too.
        """
        kind, match = messages.classify(line, None) or ("", None)
        if match is None or kind not in ("summary", "killed", "group"):
            return None
        if kind == "group":
            if self._together is not None:
                self._together.begin(match[1], microseconds)
            return None
        report = Report(Line(line, None, "", ""))
        telling.tell(kind, match, report)
        if kind == "killed":
            return self._killed(report, microseconds)
        self._together = None
        if report.chosen_pid is not None and report.task_memcg is not None:
            _put(self.places, report.chosen_pid, report.task_memcg)
            place = (report.constraint, report.memcg, report.task_memcg)
            _put(self._summaries, report.chosen_pid, place)
        return None

    def _killed(self, report: Report, microseconds: int) -> dict[str, Value]:
        pid, together = report.kills[0].pid, self._together
        place = self._summaries.pop(pid, None)
        if place is not None or together is None or not together.goes_on(microseconds):
            self._together = _Together(pid, place or (None, None, None))
            return _record("kill", report, self._together.place)
        if pid == together.pid:
            return _record("again", report, together.place)
        constraint, limit, _ = together.place
        _put(self.places, pid, together.path)
        return {**_record("kill", report, (constraint, limit, together.path)), "group": 1}


class _Together:
    """One that was chosen, and the cgroup ``path`` whose members the kernel says it kills then: one
    after the other, and nobody else meanwhile. ``last``: when it said so last, in microseconds."""

    def __init__(self, pid: int, place: Place, path: str = "", last: int = 0) -> None:
        self.pid = pid
        self.place = place
        self.path = path
        self.last = last

    def begin(self, path: str, microseconds: int) -> None:
        """It says that it does."""
        self.path, self.last = path, microseconds

    def goes_on(self, microseconds: int) -> bool:
        """Whether one that is killed now belongs to it."""
        before, self.last = self.last, microseconds
        return bool(self.path) and microseconds - before <= _TOGETHER


def _record(event: str, report: Report, place: Place) -> dict[str, Value]:
    """As the event stream has it."""
    kill, (constraint, limit, memcg) = report.kills[0], place
    return {
        "event": event,
        "pid": kill.pid,
        "comm": kill.comm,
        "uid": kill.uid,
        "constraint": constraint or report.constraint or "none",
        "memcg": memcg,
        "limit_memcg": limit,
        "handler": None,
        "outcome": "none",
        "oom_score_adj": kill.adj,
        "anon_kb": kill.anon_kb,
        "file_kb": kill.file_kb,
        "shmem_kb": kill.shmem_kb,
        "pgtables_kb": kill.pgtables_kb,
        "total_vm_kb": kill.total_vm_kb,
    }


def _put(table: dict[int, T], key: int, value: T) -> None:
    """As the newest of a table that is kept short."""
    table.pop(key, None)
    table[key] = value
    while len(table) > _KEPT_PLACES:
        del table[next(iter(table))]


def _unescaped(text: bytes) -> bytes:
    """The kernel writes bytes that do not print, and backslashes, as \\xHH."""
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), text)
