"""The kills that a stock kernel tells of in its log, read as other tests read the event stream."""

from __future__ import annotations

import re

import harness
from harness import Event, KernelLog

_SUMMARY = re.compile(
    r"^oom-kill:constraint=CONSTRAINT_(\w+),.*?(?:,oom_memcg=(.*))?,task_memcg=(.*),task=.*,pid=(\d+),"
)
_KILLED = re.compile(
    r"Killed process (\d+) \((.*)\) total-vm:(\d+)kB, anon-rss:(\d+)kB, file-rss:(\d+)kB, "
    r"shmem-rss:(\d+)kB, UID:(\d+) pgtables:(\d+)kB oom_score_adj:(-?\d+)$"
)
_GROUP = re.compile(r"^Tasks in (.*) are going to be killed due to memory.oom.group set$")
_NAMES = ("pid", "comm", "total_vm_kb", "anon_kb", "file_kb", "shmem_kb", "uid", "pgtables_kb")


class Events(harness.Events):
    """A record for each line of a kill. ``memcg`` is the victim's own group, or that whose members
    are killed as a whole; "" where the log names none. The chosen one may be killed once more as
    such a member: that is ``again``."""

    def __init__(self) -> None:
        self._log = KernelLog()
        self._file = self._log.descriptor
        self._summaries: dict[str, Event] = {}
        self._chosen: Event = {"pid": "", "constraint": "none", "limit_memcg": ""}
        self._group = ""
        self.seen: list[Event] = []

    def _read(self) -> None:
        for line in self._log.news():
            summary, killed = _SUMMARY.search(line), _KILLED.search(line)
            if group := _GROUP.search(line):
                self._group = group[1]
            elif summary:
                self._group = ""
                constraint, limit, memcg, pid = summary.groups(default="")
                self._summaries[pid] = {
                    "constraint": constraint.lower(), "limit_memcg": limit, "memcg": memcg,
                }  # fmt: skip
            elif killed:
                constraint = "memcg" if line.startswith("Memory cgroup") else "none"
                unknown = {"constraint": constraint, "limit_memcg": "", "memcg": ""}
                words = dict(zip((*_NAMES, "oom_score_adj"), killed.groups()))
                summed = self._summaries.pop(words["pid"], unknown)
                event = {"event": "kill", **words, **summed}
                if not self._group:
                    self._chosen = event
                elif words["pid"] == self._chosen["pid"]:
                    event["event"] = "again"
                else:
                    shared = ("constraint", "limit_memcg")
                    event |= {"memcg": self._group, **{key: self._chosen[key] for key in shared}}
                self.seen.append(event)
