"""The kernel log, /dev/kmsg, as a source of kills, where no kernel of ours tells of them itself.

Understands the two lines that name a victim, `oom-kill:` (since Linux 5.0) and `Killed process`.
"""

from __future__ import annotations

import errno
import os
import re

from ..eventstream import OomEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator, TypeVar

    from ..procfile import Value

    T = TypeVar("T")

_RECORD = 8192  # the most that the kernel gives at once: CONSOLE_EXT_LOG_MAX
_KEPT_PLACES = 256

#: mm/oom_kill.c, dump_oom_summary(); the last words are the kernel's, whatever a path holds.
_SUMMARY = re.compile(
    r"^oom-kill:constraint=CONSTRAINT_(\w+),nodemask=.*?"
    r"(?:,oom_memcg=(?P<limit>/.*?)|,global_oom),task_memcg=(?P<own>/.*)"
    r",task=(?P<comm>.*),pid=(?P<pid>\d+),uid=(?P<uid>\d+)$"
)
#: The same, __oom_kill_process(): since 5.3 with UID, pgtables and oom_score_adj, in RHEL 7 with
#: the UID behind the name.
_KILLED = re.compile(
    r"^(?P<why>.*: |)Killed process (?P<pid>\d+) \((?P<comm>.*)\)(?:, UID (?P<olduid>\d+),)?"
    r" total-vm:(?P<total_vm_kb>\d+)kB, anon-rss:(?P<anon_kb>\d+)kB, file-rss:(?P<file_kb>\d+)kB"
    r"(?:, shmem-rss:(?P<shmem_kb>\d+)kB)?(?:, UID:(?P<uid>\d+))?"
    r"(?: pgtables:(?P<pgtables_kb>\d+)kB)?(?: oom_score_adj:(?P<oom_score_adj>-?\d+))?"
)
_CONSTRAINTS = {
    "NONE": "none",
    "MEMCG": "memcg",
    "CPUSET": "cpuset",
    "MEMORY_POLICY": "mempolicy",
}
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
        self._summaries: dict[int, re.Match[str]] = {}

    def feed(self, line: str) -> dict[str, Value] | None:
        """The record of a kill when the line ends one, with what the kernel log can tell of it.

        ``memcg`` is the victim's cgroup, ``limit_memcg`` the one whose limit was reached.
        """
        summary = _SUMMARY.match(line)
        if summary is not None:
            self._remember(summary)
            return None
        killed = _KILLED.match(line)
        return None if killed is None else self._record(killed)

    def _remember(self, summary: re.Match[str]) -> None:
        _put(self.places, int(summary["pid"]), summary["own"])
        _put(self._summaries, int(summary["pid"]), summary)

    def _record(self, killed: re.Match[str]) -> dict[str, Value]:
        pid = int(killed["pid"])
        summary = self._summaries.pop(pid, None)
        if summary is not None:
            constraint = _CONSTRAINTS.get(summary[1], "none")
            memcg, limit = summary["own"], summary["limit"]
        else:
            constraint = "memcg" if killed["why"].startswith("Memory cgroup") else "none"
            memcg = limit = None
        uid = killed["uid"] or killed["olduid"]
        keys = ("oom_score_adj", "anon_kb", "file_kb", "shmem_kb", "pgtables_kb", "total_vm_kb")
        return {
            "event": "kill",
            "pid": pid,
            "comm": killed["comm"],
            "uid": None if uid is None else int(uid),
            "constraint": constraint,
            "memcg": memcg,
            "limit_memcg": limit,
            "handler": None,
            "outcome": "none",
            **{key: None if killed[key] is None else int(killed[key]) for key in keys},
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
