"""Whom the OOM killer would choose among the processes of a memory cgroup, and what it is told of.

Weighed as the kernel does it: resident memory, swap and page tables, plus oom_score_adj
thousandths of the limit. /proc/PID/oom_score is no help here: its unit is a thousandth of the
machine.
"""

from __future__ import annotations

import os

from .cgroup import read_file
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable

    from .procfile import Entry

_PAGE = os.sysconf("SC_PAGESIZE")
#: The value of oom_score_adj that exempts a process.
NEVER = -1000
_SIGKILL = 9
#: A figure of the kill record, and what /proc/PID/status calls it.
_FIGURES = (
    ("anon_kb", "RssAnon"),
    ("file_kb", "RssFile"),
    ("shmem_kb", "RssShmem"),
    ("swapents_kb", "VmSwap"),
    ("pgtables_kb", "VmPTE"),
    ("total_vm_kb", "VmSize"),
    ("hiwater_rss_kb", "VmHWM"),
    ("hiwater_vm_kb", "VmPeak"),
    ("locked_kb", "VmLck"),
    ("pinned_kb", "VmPin"),
    ("data_kb", "VmData"),
    ("exec_kb", "VmExe"),
    ("stack_kb", "VmStk"),
    ("threads", "Threads"),
)


class Process(Record):
    """A process as it was looked at: ``points`` are the pages that the kernel would weigh it with,
    ``figures`` those of a kill record, ``start`` its start time, which tells it from a later
    process of the same number."""

    __slots__ = ("adj", "comm", "figures", "pid", "points", "rss_kb", "start", "swap_kb", "uid")

    def __init__(
        self,
        pid: int,
        comm: str,
        uid: int,
        start: int,
        adj: int = 0,
        points: int = 0,
        rss_kb: int = 0,
        swap_kb: int = 0,
        figures: dict[str, int | None] | None = None,
    ) -> None:
        self.pid = pid
        self.comm = comm
        self.uid = uid
        self.start = start
        self.adj = adj
        self.points = points
        self.rss_kb = rss_kb
        self.swap_kb = swap_kb
        self.figures = figures or {}

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return start_time(self.pid) == self.start


def badness(weight: int, adj: int, total: int) -> int:
    """What the kernel compares, all in pages: ``weight`` is resident memory, swap and page tables,
    ``total`` what there is in the machine or within the limit. Source: mm/oom_kill.c,
    oom_badness()."""
    return weight + adj * (total // 1000)


def stat_words(pid: int, proc: str = "/proc") -> list[str]:
    """What the kernel says of a process behind its name, from the state on; nothing if it has
    ended. Source: proc_pid_stat(5)."""
    return read_file(f"{proc}/{pid}/stat").rpartition(")")[2].split()


def start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since the boot; None if it has ended."""
    words = stat_words(pid)
    if len(words) < 20 or words[0] in "ZX":
        return None
    return int(words[19])


def look_at(pid: int, limit_kb: int = 0) -> Process | None:
    """The process now, weighed for a group with this limit; None if it has ended or is dying."""
    lines = read_file(f"/proc/{pid}/status").splitlines()
    status = dict(line.partition(":")[::2] for line in lines)
    start = start_time(pid)
    if start is None or "VmRSS" not in status or _is_dying(status):
        return None
    kb = {key: int(value.split()[0]) for key, value in status.items() if _is_number(value)}
    adj = int(read_file(f"/proc/{pid}/oom_score_adj") or 0)
    weight_kb = kb["VmRSS"] + kb.get("VmSwap", 0) + kb.get("VmPTE", 0)
    return Process(
        pid,
        read_file(f"/proc/{pid}/comm").rstrip("\n"),
        kb["Uid"],
        start,
        adj,
        badness(weight_kb * 1024 // _PAGE, adj, limit_kb * 1024 // _PAGE),
        kb["VmRSS"],
        kb.get("VmSwap", 0),
        {name: kb.get(key) for name, key in _FIGURES},
    )


def _is_number(value: str) -> bool:
    return value.split()[:1] != [] and value.split()[0].isdigit()


def _is_dying(status: dict[str, str]) -> bool:
    pending = int(status.get("SigPnd", "0"), 16) | int(status.get("ShdPnd", "0"), 16)
    return bool(pending >> (_SIGKILL - 1) & 1)


def weigh(pids: Iterable[int], limit_kb: int) -> list[Process]:
    """Those whom the kernel may choose; it would choose the first."""
    found = [process for process in (look_at(pid, limit_kb) for pid in pids) if process]
    eligible = [process for process in found if process.adj != NEVER]
    return sorted(eligible, key=lambda process: -process.points)


def choose(pids: Iterable[int], limit_kb: int) -> Process | None:
    """The one that the kernel would choose; None if it may choose none of them."""
    return next(iter(weigh(pids, limit_kb)), None)


def covers(entry: Entry, victim: Process) -> bool:
    """Whether a registration is for this victim too. Its group holds the tree and nobody else."""
    return entry.scope == "tree" or victim.pid == entry.pid
