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
_NAMES = ("pid", "comm", "total_vm_kb", "anon_kb", "file_kb", "shmem_kb", "uid", "pgtables_kb")


class Events(harness.Events):
    """A record for each line of a kill. ``memcg`` is the victim's own group, "" where no summary
    names it: of a group that is killed as a whole it names one."""

    def __init__(self) -> None:
        self._log = KernelLog()
        self._file = self._log.descriptor
        self._summaries: dict[str, Event] = {}
        self.seen: list[Event] = []

    def _read(self) -> None:
        for line in self._log.news():
            summary, killed = _SUMMARY.search(line), _KILLED.search(line)
            if summary:
                constraint, limit, memcg, pid = summary.groups(default="")
                self._summaries[pid] = {
                    "constraint": constraint.lower(), "limit_memcg": limit, "memcg": memcg,
                }  # fmt: skip
            elif killed:
                constraint = "memcg" if line.startswith("Memory cgroup") else "none"
                unknown = {"constraint": constraint, "limit_memcg": "", "memcg": ""}
                words = dict(zip((*_NAMES, "oom_score_adj"), killed.groups()))
                summed = self._summaries.pop(words["pid"], unknown)
                self.seen.append({"event": "kill", **words, **summed})
