"""The facts of one OOM as a log tells them: Report, and the Task, Kill and Counter in it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .badness import Judgement
    from .hints import Hint
    from .lines import Line
    from .outcomes import Handling


class Task:
    """A row of the kernel's list of tasks; pages unless the name says otherwise, None where this
    kernel's list has no such column. ``pages`` and ``points``: see :mod:`badness`."""

    __slots__ = (
        "adj",
        "anon",
        "comm",
        "file",
        "nr_pmds",
        "nr_ptes",
        "pages",
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
        self.pages = 0
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
