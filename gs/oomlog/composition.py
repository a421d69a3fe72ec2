"""What memory was made of: the figures of Mem-Info, or of a memory cgroup, as parts of a whole.

Only parts that do not overlap are added up, and only those that a kernel prints; what is left of
the whole is "not told".
"""

from __future__ import annotations

from ..record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .facts import Report


class Part(Record):
    """A share of the memory, kB; ``kernel``: nobody's death gives it back at once."""

    __slots__ = ("kb", "kernel", "name")

    def __init__(self, name: str, kb: int, kernel: bool = False) -> None:
        self.name = name
        self.kb = kb
        self.kernel = kernel


class Composition(Record):
    """The whole, kB, and its parts, the largest first."""

    __slots__ = ("parts", "total_kb")

    def __init__(self, total_kb: int, parts: list[Part]) -> None:
        self.total_kb = total_kb
        self.parts = sorted(parts, key=lambda part: -part.kb)

    def kb(self, name: str) -> int:
        """A part by its name, 0 if it is not there."""
        return sum(part.kb for part in self.parts if part.name == name)

    @property
    def kernel_kb(self) -> int:
        """What the kernel itself holds."""
        return sum(part.kb for part in self.parts if part.kernel)


def of(report: Report) -> Composition | None:
    """None where the log does not tell."""
    if report.is_memcg:
        return _of_memcg(report)
    return _of_machine(report)


# ---------------------------------------------------------------------------- a memory cgroup

#: Kernel memory by its names in memory.stat that are parts of each other's whole.
_KERNEL_STATS = (
    ("slab", "slab"),
    ("kernel_stack", "kernel stacks"),
    ("pagetables", "page tables"),
    ("sec_pagetables", "page tables of devices"),
    ("sock", "socket buffers"),
    ("percpu", "per-processor data"),
    ("vmalloc", "vmalloc"),
)


def _of_memcg(report: Report) -> Composition | None:
    memory, stats = report.counters.get("memory"), report.stats
    if memory is None or not stats:
        return None
    parts = _of_version1(stats) if "rss" in stats else _of_version2(stats)
    kmem = report.counters.get("kmem")
    if kmem is not None and not any(part.kernel for part in parts) and kmem.usage_kb:
        parts.append(Part("kernel", kmem.usage_kb, kernel=True))
    return _whole(memory.usage_kb, parts)


def _of_version1(stats: dict[str, int]) -> list[Part]:
    """ "cache" holds shared memory, too, as far as its kernel tells that apart (4.10)."""
    shmem = stats.get("shmem", 0)
    return [
        Part("anonymous", stats["rss"] // 1024),
        Part("shared and tmpfs", shmem // 1024),
        Part(
            "page cache" if "shmem" in stats else "page cache, shared and tmpfs",
            (stats.get("cache", 0) - shmem) // 1024,
        ),
    ]


def _of_version2(stats: dict[str, int]) -> list[Part]:
    shmem = stats.get("shmem", 0)
    parts = [
        Part("anonymous", stats.get("anon", 0) // 1024),
        Part("shared and tmpfs", shmem // 1024),
        Part("page cache", (stats.get("file", 0) - shmem) // 1024),
    ]
    for key, name in _KERNEL_STATS:
        if key in stats:
            parts.append(Part(name, stats[key] // 1024, kernel=True))
    return parts


# ---------------------------------------------------------------------------- the machine

_LISTS = (
    ("anonymous, shared and tmpfs", ("active_anon", "inactive_anon", "isolated_anon"), False),
    ("page cache", ("active_file", "inactive_file", "isolated_file"), False),
    ("locked or pinned", ("unevictable",), False),
    ("slab, reclaimable", ("slab_reclaimable",), True),
    ("slab, unreclaimable", ("slab_unreclaimable",), True),
    ("page tables", ("pagetables",), True),
    ("page tables of devices", ("sec_pagetables",), True),
    ("free", ("free",), False),
)


def _of_machine(report: Report) -> Composition | None:
    info = report.mem_info
    if "pages RAM" not in info or "free" not in info or "active_anon" not in info:
        return None
    page_kb = report.judgement.page_kb if report.judgement else 4
    total = (info["pages RAM"] - info.get("pages reserved", 0)) * page_kb
    parts = [
        Part(name, sum(info.get(key, 0) for key in keys) * page_kb, kernel)
        for name, keys, kernel in _LISTS
    ]
    # Where the asker is confined, zones and nodes of the others are left out.
    if "kernel_stack_kb" in info and report.constraint not in ("cpuset", "mempolicy"):
        parts.append(Part("kernel stacks", info["kernel_stack_kb"], kernel=True))
    return _whole(total, parts)


def _whole(total_kb: int, parts: list[Part]) -> Composition:
    parts = [part for part in parts if part.kb > 0]
    rest = total_kb - sum(part.kb for part in parts)
    if rest > 0:
        parts.append(Part("not told", rest))
    return Composition(total_kb, parts)
