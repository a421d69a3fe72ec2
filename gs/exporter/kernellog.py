"""The kernel log, /dev/kmsg, as a source of kills, where no kernel of ours tells of them itself.

Takes the two lines that name a victim, `oom-kill:` (since Linux 5.0) and `Killed process`; their
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
    from typing import Iterator, TypeVar

    from ..procfile import Value

    T = TypeVar("T")

_RECORD = 8192  # the most that the kernel gives at once: CONSOLE_EXT_LOG_MAX
_KEPT_PLACES = 256

_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


class KernelLog:
    """An open kernel log. Iterating gives the kills in what is there now and behind ``seq``, the
    number of the last record read (-1: from the oldest). ``gap`` turns true when records were
    overwritten before they were read. OSError if it cannot be opened."""

    def __init__(self, path: str = "/dev/kmsg", seq: int | None = None) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.seq = seq
        self.gap = False
        self._reports = Reports()

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
        data = self._reports.feed(line)
        if data is None:
            return None
        return OomEvent({"seq": seq, "time_ns": microseconds * 1000, **data})


class Reports:
    """Puts the lines of a kill together. ``places``: of the last victims, by process number, the
    cgroup they were in."""

    def __init__(self) -> None:
        self.places: dict[int, str] = {}
        self._summaries: dict[int, Report] = {}

    def feed(self, line: str) -> dict[str, Value] | None:
        """The record of a kill when the line ends one, with what the kernel log can tell of it.

        ``memcg`` is the victim's cgroup, ``limit_memcg`` the one whose limit was reached.
        """
        kind, match = messages.classify(line, None) or ("", None)
        if match is None or kind not in ("summary", "killed"):
            return None
        report = Report(Line(line, None, "", ""))
        if kind == "killed":
            report = self._summaries.pop(int(match[2]), report)
        telling.tell(kind, match, report)
        if kind == "killed":
            return _record(report)
        if report.chosen_pid is not None and report.task_memcg is not None:
            _put(self.places, report.chosen_pid, report.task_memcg)
            _put(self._summaries, report.chosen_pid, report)
        return None


def _record(report: Report) -> dict[str, Value]:
    """As the event stream has it."""
    kill = report.kills[0]
    return {
        "event": "kill",
        "pid": kill.pid,
        "comm": kill.comm,
        "uid": kill.uid,
        "constraint": report.constraint or "none",
        "memcg": report.task_memcg,
        "limit_memcg": report.memcg,
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
