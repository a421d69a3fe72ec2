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
    from typing import Any, Iterator, Optional, Sequence, Tuple, TypeVar

    from ..procfile import Value

    #: What a summary says of the chosen one: its constraint, the cgroup whose limit was reached,
    #: and its own one; all None where there was no summary.
    Place = Tuple[Optional[str], Optional[str], Optional[str]]

    T = TypeVar("T")

_RECORD = 8192  # the most that the kernel gives at once: CONSOLE_EXT_LOG_MAX
_KEPT_PLACES = 256
#: The kernel leaves summaries out when it has printed so many within 5 s (oom_rs in mm/oom_kill.c);
#: in microseconds, and a little more.
_BURST, _INTERVAL = 10, 6_000_000

_NOWHERE: Place = (None, None, None)

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
            if seq > self.seq + 1:
                self.gap = True
                self._reports.forget(microseconds)
        self.seq = seq
        if prefix >> 3:
            return None  # somebody else's than the kernel's; it sees to that
        line = os.fsdecode(_unescaped(text))
        data = self._reports.feed(line, microseconds)
        if data is None:
            return None
        return OomEvent({"seq": seq, "time_ns": microseconds * 1000, **data})


class Reports:
    """Puts the lines of a kill together, whose times are in microseconds. ``places``: of the last
    victims, by process number, the cgroup they were in. ``state``: what :attr:`state` was before.

    All lines of an OOM stand together, for it holds oom_lock: the summary, the kill of the chosen
    one, that its group is killed as a whole, and the kills of the members. Without a summary
    between them, who is killed next is a member, unless summaries are being left out.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        known = state or {}
        self.places: dict[int, str] = {}
        self._choice = _Choice(**known["choice"]) if known.get("choice") else None
        #: When there were summaries lately.
        self._summaries: list[int] = known.get("summaries", [])

    @property
    def state(self) -> dict[str, Any]:
        """For the next time: a kill may be told in part."""
        choice = self._choice
        return {
            "choice": None if choice is None else choice.__dict__,
            "summaries": self._summaries,
        }

    def forget(self, microseconds: int) -> None:
        """Lines are missing that came before this one."""
        self._choice, self._summaries = None, [microseconds] * _BURST

    def feed(self, line: str, microseconds: int = 0) -> dict[str, Value] | None:
        """The record of a kill when the line ends one, with what the kernel log can tell of it.

        ``memcg`` is the victim's cgroup, ``limit_memcg`` the one whose limit was reached. Where
        ``group`` is 1 it was killed with the chosen one, and ``memcg`` is the cgroup that both are
        in, which may be above its own. The event is ``again`` where the kernel kills the chosen one
        once more, as a member: it counts that, too.
        """
        kind, match = messages.classify(line, None) or ("", None)
        if match is None or kind not in ("summary", "killed", "group"):
            return None
        if kind == "group":
            self._begin_group(match[1])
            return None
        report = Report(Line(line, None, "", ""))
        telling.tell(kind, match, report)
        if kind == "killed":
            return self._killed(report, microseconds)
        self._summaries = [*self._summaries, microseconds][-_BURST:]
        self._choice = None
        if report.chosen_pid is not None and report.task_memcg is not None:
            _put(self.places, report.chosen_pid, report.task_memcg)
            place = (report.constraint, report.memcg, report.task_memcg)
            self._choice = _Choice(report.chosen_pid, place)
        return None

    def _begin_group(self, path: str) -> None:
        if self._choice is None:
            self._choice = _Choice(None, _NOWHERE)
        elif self._choice.path:  # of another OOM, whose summary was left out
            self._choice = _Choice(self._choice.last, _NOWHERE, killed=True)
        self._choice.path = path

    def _killed(self, report: Report, microseconds: int) -> dict[str, Value]:
        pid, choice = report.kills[0].pid, self._choice
        if choice is not None and choice.pid == pid:
            event = "again" if choice.killed and choice.path else "kill"
            choice.killed = True
            return _record(event, report, choice.place)
        if choice is None or not choice.path:
            self._choice = _Choice(pid, _NOWHERE, killed=True)
            return _record("kill", report, _NOWHERE)
        choice.last = pid
        if choice.place == _NOWHERE or self._may_be_left_out(microseconds):
            return _record("kill", report, _NOWHERE)
        _put(self.places, pid, choice.path)
        constraint, limit, _ = choice.place
        return {**_record("kill", report, (constraint, limit, choice.path)), "group": 1}

    def _may_be_left_out(self, microseconds: int) -> bool:
        """Whether there may be an OOM now without a summary."""
        lately = [at for at in self._summaries if microseconds - at <= _INTERVAL]
        return len(lately) >= _BURST


class _Choice:
    """The process that was chosen last (None: nobody knows), whether it has been ``killed``, the
    cgroup ``path`` whose members go with it, and the number of whoever was killed ``last`` then."""

    def __init__(
        self,
        pid: int | None,
        place: Sequence[str | None],
        killed: bool = False,
        path: str = "",
        last: int | None = None,
    ) -> None:
        self.pid = pid
        self.place: Place = (place[0], place[1], place[2])  # a list, where it was kept
        self.killed = killed
        self.path = path
        self.last = last


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
