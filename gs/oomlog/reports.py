"""The report of one OOM, and grouping lines into reports: their beginnings and ends, machine by
machine, with other lines between them, and with either end cut off."""

from __future__ import annotations

from . import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterator

    from .badness import Judgement
    from .hints import Hint
    from .lines import Line
    from .outcomes import Handling

#: So many lines after the last that belonged to it a report is over, although no kill was seen.
_PATIENCE = 1000

#: So many kills are remembered for what the log tells later of their victims.
_REMEMBERED = 256


class Task:
    """A row of the kernel's list of tasks; pages unless the name says otherwise, None where this
    kernel's list has no such column. ``points``: see :mod:`badness`."""

    __slots__ = (
        "adj",
        "anon",
        "comm",
        "file",
        "nr_pmds",
        "nr_ptes",
        "pgtables_bytes",
        "pid",
        "points",
        "rss",
        "shmem",
        "swapents",
        "tgid",
        "total_vm",
        "uid",
    )

    def __init__(self, pid: int, comm: str, columns: dict[str, int]) -> None:
        self.pid = pid
        self.comm = comm
        self.uid = columns["uid"]
        self.tgid = columns["tgid"]
        self.total_vm = columns["total_vm"]
        self.rss = columns["rss"]
        self.anon = columns.get("rss_anon")
        self.file = columns.get("rss_file")
        self.shmem = columns.get("rss_shmem")
        self.nr_ptes = columns.get("nr_ptes")
        self.nr_pmds = columns.get("nr_pmds")
        self.pgtables_bytes = columns.get("pgtables_bytes")
        self.swapents = columns["swapents"]
        self.adj = columns["oom_score_adj"]
        self.points: tuple[int, int] | None = None


class Kill:
    """A process that was killed, as "Killed process" tells of it; kB, None where it does not."""

    __slots__ = (
        "adj",
        "anon_kb",
        "comm",
        "file_kb",
        "pgtables_kb",
        "pid",
        "reaped",
        "shmem_kb",
        "total_vm_kb",
        "uid",
    )

    def __init__(self, pid: int, comm: str, figures: dict[str, int]) -> None:
        self.pid = pid
        self.comm = comm
        self.total_vm_kb = figures.get("total-vm")
        self.anon_kb = figures.get("anon-rss")
        self.file_kb = figures.get("file-rss")
        self.shmem_kb = figures.get("shmem-rss")
        self.uid = figures.get("UID")
        self.pgtables_kb = figures.get("pgtables")
        self.adj = figures.get("oom_score_adj")
        #: Whether the OOM reaper took its memory; None if nothing is said of it.
        self.reaped: bool | None = None


class Counter:
    """A line "memory: usage %lukB, limit %lukB, failcnt %lu" of a memory cgroup."""

    __slots__ = ("failcnt", "limit_kb", "usage_kb")

    def __init__(self, usage_kb: int, limit_kb: int, failcnt: int) -> None:
        self.usage_kb = usage_kb
        self.limit_kb = limit_kb
        self.failcnt = failcnt

    @property
    def is_limited(self) -> bool:
        """Whether the limit is one: the largest number of pages there is stands for none."""
        return self.limit_kb < 1 << 50


class Report:
    """What the log told of one OOM. None, or empty, is what it did not tell."""

    def __init__(self, first: Line) -> None:
        self.number = 0
        self.host = first.host
        self.seconds = first.seconds
        self.stamp = first.stamp
        self.lines = 0
        #: Its beginning is not in the log.
        self.is_headless = True

        self.asker_comm: str | None = None
        self.asker_pid: int | None = None
        self.gfp_mask: str | None = None
        self.gfp_flags: str | None = None
        self.order: int | None = None
        self.asker_adj: int | None = None
        self.kernel: str | None = None

        self.scope: str | None = None
        self.constraint: str | None = None
        self.nodemask: str | None = None
        self.cpuset: str | None = None
        self.mems_allowed: str | None = None
        self.memcg: str | None = None
        self.task_memcg: str | None = None
        self.counters: dict[str, Counter] = {}
        #: Of a memory cgroup, bytes.
        self.stats: dict[str, int] = {}
        #: Of the machine: pages by the names of Mem-Info, and what else it tells.
        self.mem_info: dict[str, int] = {}
        self.node_present_kb: dict[int, int] = {}
        self.free_zones: list[tuple[str, int, int]] = []
        self.slabs: list[tuple[str, int]] = []
        #: Swap that the log said was added to this machine before, kB.
        self.swap_known_kb: int | None = None

        self.columns: tuple[str, ...] | None = None
        self.has_list = False
        self.tasks: list[Task] = []
        self.chosen_pid: int | None = None
        self.chosen_comm: str | None = None
        self.chosen_uid: int | None = None
        self.score: int | None = None
        self.is_asker_rule = False
        self.kills: list[Kill] = []
        self.group: str | None = None
        #: killed, no-victim, panic, exiting (it was on its way out), or None.
        self.outcome: str | None = None
        self.panic: str | None = None
        #: Those that were killed on this machine before, whose memory may be gone already.
        self.killed_before: dict[int, str] = {}

        self.judgement: Judgement | None = None
        self.handling: Handling | None = None
        self.hints: list[Hint] = []

        #: What the next line may be a part of: "stats", "slabs", "limit", or nothing.
        self.part = ""

    @property
    def is_memcg(self) -> bool:
        """Whether a memory cgroup's limit was met."""
        return self.scope == "memcg"

    @property
    def when(self) -> str:
        """The time, as the log has it."""
        if self.stamp:
            return self.stamp
        return "time not in the log" if self.seconds is None else f"{self.seconds:.6f}"


class Refusal:
    """Allocations that __vm_enough_memory() refused a process; ``bytes``: the last, if told."""

    def __init__(self, pid: int, comm: str, size: int | None) -> None:
        self.pid = pid
        self.comm = comm
        self.bytes = size
        self.count = 1


class _Host:
    """What is remembered of one machine from line to line."""

    def __init__(self) -> None:
        self.open: Report | None = None
        self.idle = 0
        self.last: Report | None = None
        self.swap_kb: int | None = None
        self.killed: dict[int, Report] = {}

    def remember(self, report: Report) -> None:
        """The last kill of this report."""
        pid = report.kills[-1].pid
        self.killed.pop(pid, None)
        self.killed[pid] = report
        if len(self.killed) > _REMEMBERED:
            del self.killed[next(iter(self.killed))]


class Collector:
    """Takes lines in their order; ``reports`` are complete up to the one that is open."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.refusals: dict[tuple[str, int, str], Refusal] = {}
        self._hosts: dict[str, _Host] = {}
        self._open = 0

    @property
    def is_open(self) -> bool:
        """Whether the next line may belong to a report, whatever is in it."""
        return self._open > 0

    def take(self, line: Line) -> Iterator[Report]:
        """One line; yields the report that ended before it or with it, if one did."""
        host = self._hosts.get(line.host)
        if host is None:
            host = self._hosts[line.host] = _Host()
        found = messages.classify(line.text, host.open)
        if found is None:
            if host.open is not None:
                host.idle += 1
                if host.idle > _PATIENCE:
                    yield self._close(host)
            return
        host.idle = 0
        kind, match = found
        if kind in messages.ASIDE:
            yield from self._aside(kind, match, line, host)
            return
        if host.open is not None and messages.begins_another(kind, match, host.open):
            yield self._close(host)
        report = self._report_of(kind, match, line, host)
        report.lines += 1
        messages.tell(kind, match, report)
        if kind == "killed":
            host.remember(report)
        if kind in messages.LAST and host.open is not None:
            yield self._close(host)

    def finish(self) -> Iterator[Report]:
        """No more lines come."""
        for host in self._hosts.values():
            if host.open is not None:
                yield self._close(host)

    def _report_of(self, kind: str, match: messages.Match, line: Line, host: _Host) -> Report:
        if host.open is not None:
            return host.open
        last = host.last
        if last is not None and messages.continues(kind, match, last):
            return last
        report = Report(line)
        report.swap_known_kb = host.swap_kb
        report.killed_before = {
            pid: kill.comm for pid, one in host.killed.items() for kill in one.kills
            if kill.pid == pid
        }  # fmt: skip
        host.open = report
        self._open += 1
        return report

    def _close(self, host: _Host) -> Report:
        report = host.open
        assert report is not None
        host.open, host.last, host.idle = None, report, 0
        self._open -= 1
        report.number = len(self.reports) + 1
        self.reports.append(report)
        return report

    def _aside(self, kind: str, match: messages.Match, line: Line, host: _Host) -> Iterator[Report]:
        """What is told of a machine, or of a process, outside of reports."""
        if kind == "boot":
            if host.open is not None:
                yield self._close(host)
            self._hosts[line.host] = _Host()
        elif kind == "swap on":
            host.swap_kb = (host.swap_kb or 0) + int(match[1])
        elif kind == "reaper":
            pid = int(match[2])
            report = host.open or host.killed.get(pid)
            for kill in report.kills if report else ():
                if kill.pid == pid:
                    kill.reaped = match[1] == "reaped process"
        elif kind == "refusal":
            size = None if match[3] is None else int(match[3])
            pid, comm = int(match[1]), match[2]
            known = self.refusals.get((line.host, pid, comm))
            if known is None:
                self.refusals[line.host, pid, comm] = Refusal(pid, comm, size)
            else:
                known.bytes = size
                known.count += 1
