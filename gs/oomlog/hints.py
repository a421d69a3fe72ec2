"""What is worth knowing about an OOM beyond its facts: why it came to this, and what would help.

Each hint rests on figures of the report alone, and says them.
"""

from __future__ import annotations

from ..bystanders import is_critical
from ..record import Record
from ..victims import NEVER
from . import badness, composition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Iterator

    from .facts import Report, Task

#: A share of the memory from which on something is worth a word.
_MUCH = 0.1
#: Swap is full where less than this is free: what each processor keeps for itself counts as free.
_FULL = 0.05
#: From this order on memory may be free, and in pieces that are too small (PAGE_ALLOC_COSTLY_ORDER
#: is 3, above which the kernel does not kill).
_LARGE_ORDER = 1


class Hint(Record):
    """``kind`` is a word for programs, ``text`` a sentence, ``figures`` what it rests on."""

    __slots__ = ("figures", "kind", "text")

    def __init__(self, kind: str, text: str, **figures: int | str | None) -> None:
        self.kind = kind
        self.text = text
        self.figures = figures


def of(report: Report) -> list[Hint]:
    """The hints for one report."""
    checks: tuple[Callable[[Report], Iterator[Hint]], ...] = (
        _limit,
        _swap,
        _never,
        _nobody,
        _kernel,
        _files_in_memory,
        _by_adjustment,
        _daemon,
        _group,
        _asker_rule,
        _child,
        _order,
        _not_reaped,
    )
    return [hint for check in checks for hint in check(report)]


# ---------------------------------------------------------------------------- the limit, and swap


def _limit(report: Report) -> Iterator[Hint]:
    memory = report.counters.get("memory")
    if memory is None or not memory.is_limited:
        return
    page_kb = report.judgement.page_kb if report.judgement else 4
    wanted = page_kb << max(report.order or 0, 0)
    short = max(memory.usage_kb + wanted - memory.limit_kb, wanted)
    text = f"the limit, {memory.limit_kb} kB, was too small by at least {short} kB, which is what"
    text += " this one allocation lacked; how much more would have followed is not in the log"
    swapped = _swapped_kb(report)
    if swapped:
        text += f"; {swapped} kB more were in swap"
    yield Hint("limit", text, short_kb=short, swapped_kb=swapped, limit_kb=memory.limit_kb)
    if report.task_memcg and report.memcg and report.task_memcg != report.memcg:
        yield Hint(
            "ancestor",
            f"the limit is that of {report.memcg}, above the victim's own group"
            f" {report.task_memcg}: whatever is below it shares it",
        )


def _swapped_kb(report: Report) -> int:
    swap = report.counters.get("swap")
    if swap is not None:
        return swap.usage_kb
    both, memory = report.counters.get("memory+swap"), report.counters.get("memory")
    return max(both.usage_kb - memory.usage_kb, 0) if both and memory else 0


def _swap(report: Report) -> Iterator[Hint]:
    if report.is_memcg:
        swap, both = report.counters.get("swap"), report.counters.get("memory+swap")
        memory = report.counters.get("memory")
        if swap is not None and swap.limit_kb == 0:
            yield Hint("no-swap", "the group may not use swap (memory.swap.max is 0)")
        elif both and memory and both.limit_kb == memory.limit_kb:
            yield Hint("no-swap", "the group may not use swap (memory.memsw equals the limit)")
        elif (
            swap is not None
            and swap.is_limited
            and _is_full(swap.limit_kb, swap.limit_kb - swap.usage_kb)
        ):
            text = f"{swap.usage_kb} kB of the group's {swap.limit_kb} kB of swap were used"
            yield Hint("swap-full", text)
        return
    total, free = report.mem_info.get("Total swap"), report.mem_info.get("Free swap")
    if total == 0:
        yield Hint("no-swap", "the machine has no swap")
    elif total and free is not None and _is_full(total, free):
        yield Hint("swap-full", f"all but {free} kB of the machine's {total} kB of swap were used")


def _is_full(total_kb: int, free_kb: int) -> bool:
    return free_kb < total_kb * _FULL


# ---------------------------------------------------------------------------- who was spared


def _whole_kb(report: Report) -> int | None:
    memory = report.counters.get("memory")
    if report.is_memcg:
        return memory.limit_kb if memory else None
    found = composition.of(report)
    return found.total_kb if found else None


def _kb(task: Task, report: Report) -> int:
    page_kb = report.judgement.page_kb if report.judgement else 4
    return task.pages * page_kb


def _never(report: Report) -> Iterator[Hint]:
    whole = _whole_kb(report)
    tasks = [task for task in report.tasks if task.adj == NEVER]
    judgement = report.judgement
    held = judgement.never_pages * judgement.page_kb if judgement else 0
    if tasks and whole and held >= whole * _MUCH:
        largest = max(tasks, key=lambda task: _kb(task, report))
        yield Hint(
            "unkillable",
            f"{held} kB, {held * 100 // whole} % of it all, belong to processes that may not be"
            f" chosen (oom_score_adj -1000): {largest.comm} ({largest.pid}) has"
            f" {_kb(largest, report)} kB",
            held_kb=held,
        )


def _nobody(report: Report) -> Iterator[Hint]:
    if report.outcome == "no-victim":
        yield Hint(
            "no-victim",
            "nobody could be killed: whoever is there has oom_score_adj -1000, or is dying already"
            + ("; the machine panicked" if report.panic else ""),
        )
    elif report.panic:
        yield Hint("panic", f"the machine panicked: {report.panic}")


def _by_adjustment(report: Report) -> Iterator[Hint]:
    """Somebody larger was passed over for his lower oom_score_adj."""
    victim = badness.chosen_task(report)
    if victim is None or report.is_asker_rule or report.outcome == "no-victim":
        return
    mine = _kb(victim, report)
    spared = [
        task for task in report.tasks
        if task is not victim and NEVER < task.adj < victim.adj
        and _kb(task, report) > mine + 4 * badness.slack(mine // 4)
        and report.killed_before.get(task.tgid) != task.comm
    ]  # fmt: skip
    if spared:
        largest = max(spared, key=lambda task: _kb(task, report))
        yield Hint(
            "adjustment",
            f"{largest.comm} ({largest.pid}) held {_kb(largest, report)} kB, {victim.comm}"
            f" ({victim.pid}) {mine}: it was chosen for its oom_score_adj of {victim.adj}, against"
            f" {largest.adj}",
            spared_pid=largest.pid,
            spared_adj=largest.adj,
            victim_adj=victim.adj,
        )


def _daemon(report: Report) -> Iterator[Hint]:
    """The machine's own was chosen, and not the hog."""
    if report.is_memcg:
        return
    cgroup = report.task_memcg or ""
    for kill in report.kills[:1]:
        if not is_critical(kill.comm) and not cgroup.startswith("/system.slice/"):
            continue
        text = f"{kill.comm} is a daemon of the machine itself"
        if cgroup:
            text += f" ({cgroup})"
        spared = list(_by_adjustment(report))
        if spared:
            text += ", chosen because a larger process, as a container's may be, has a lower"
            text += " oom_score_adj"
        yield Hint("daemon", f"{text}; for good: OOMScoreAdjust=-1000 in its unit")


# ---------------------------------------------------------------------------- what memory held


def _kernel(report: Report) -> Iterator[Hint]:
    made_of = composition.of(report)
    if made_of is None or not made_of.total_kb:
        return
    if made_of.kernel_kb * 2 > made_of.total_kb:
        slabs = sorted(report.slabs, key=lambda slab: -slab[1])[:1]
        text = f"the kernel itself held {made_of.kernel_kb} kB of {made_of.total_kb}: killing gives"
        text += " little of it back"
        if slabs:
            text += f"; the largest slab is {slabs[0][0]} with {slabs[0][1]} kB"
        yield Hint("kernel-memory", text, kernel_kb=made_of.kernel_kb)


def _files_in_memory(report: Report) -> Iterator[Hint]:
    made_of = composition.of(report)
    page_kb = report.judgement.page_kb if report.judgement else 4
    if made_of is None or not made_of.total_kb:
        return
    if report.is_memcg:
        shmem = report.stats.get("shmem", 0) // 1024
    else:
        shmem = report.mem_info.get("shmem", 0) * page_kb
    if shmem * 3 > made_of.total_kb:
        yield Hint(
            "tmpfs",
            f"{shmem} kB were shared memory or files in a tmpfs, which stay when a process is"
            " killed",
            shmem_kb=shmem,
        )


# ---------------------------------------------------------------------------- how it was done


def _group(report: Report) -> Iterator[Hint]:
    if report.group is not None:
        yield Hint(
            "group",
            f"memory.oom.group is set in {report.group}: {len(report.kills)} processes were killed"
            " for one",
            killed=len(report.kills),
        )


def _asker_rule(report: Report) -> Iterator[Hint]:
    if report.is_asker_rule:
        yield Hint(
            "asker",
            "vm.oom_kill_allocating_task is set: who asks is killed, however little it has",
        )
    if report.order is not None and report.order < 0:
        yield Hint("sysrq", "asked for by hand (sysrq f), not for want of memory")


def _child(report: Report) -> Iterator[Hint]:
    """Before 5.4 a child may die in the place of the one that was chosen."""
    for kill in report.kills[:1]:
        if report.score is not None and kill.pid != report.chosen_pid:
            yield Hint(
                "child",
                f"{report.chosen_comm} ({report.chosen_pid}) was chosen, and its child"
                f" {kill.comm} ({kill.pid}) was killed for it, as kernels did before 5.4",
            )


def _order(report: Report) -> Iterator[Hint]:
    if report.is_memcg or report.order is None or report.order < _LARGE_ORDER:
        return
    ample = [zone for zone in report.free_zones if zone[1] > zone[2] and zone[0] != "DMA"]
    if ample:
        yield Hint(
            "order",
            f"{1 << report.order} pages in one piece were asked for (order {report.order}), and"
            f" zone {ample[0][0]} had {ample[0][1]} kB free, above its minimum of {ample[0][2]}:"
            " memory is in pieces rather than gone",
        )


def _not_reaped(report: Report) -> Iterator[Hint]:
    stuck = [kill for kill in report.kills if kill.reaped is False]
    if stuck:
        names = ", ".join(f"{kill.comm} ({kill.pid})" for kill in stuck)
        yield Hint("not-reaped", f"the memory of {names} could not be taken back at once")
