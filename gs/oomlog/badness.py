"""The kernel's choice weighed again from what it printed: oom_badness() of that kernel's age.

Resident memory, swap and page tables in pages, plus oom_score_adj thousandths of all that could be
used (mm/oom_kill.c, oom_badness() and constrained_alloc(); mm/memcontrol.c, mem_cgroup_get_max()).
Before 4.17 what has CAP_SYS_ADMIN weighs 3 % less (before 3.14 by 3 % of the total): of a process
of root a log does not tell whether it has. So a weight is a range here, as is the total where the
swap of the machine is not told.
"""

from __future__ import annotations

import heapq
import re

from ..record import Record
from ..victims import NEVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Tuple

    from .facts import Report, Task

    Ages = Tuple[Tuple[int, int], Tuple[int, int]]

#: Pages by which counts may differ that were read one after the other, and each processor's share
#: of which is added late: at least these, and a fiftieth of the weight.
_SLACK_PAGES, _SLACK_SHARE = 64, 50

#: A task of which nothing but its number is kept would be no use; of these there are many.
_KEPT = 20

_PAGE_SIZES_KB = (4, 8, 16, 64)


class Judgement(Record):
    """Whether the log explains the choice.

    ``agrees``: True, False, or None where the log does not tell enough; ``why`` says which rule, or
    what is missing. ``candidates``: how many may be chosen; ``never``: how many may not, with
    ``never_pages`` of memory. ``points`` are the victim's, pages, from the least to the most it can
    have been; ``ahead`` the processes that weigh more and were not chosen. ``score_agrees`` is of
    the "score" that kernels printed before 5.4. ``total_pages`` as (least, most), None if not told.
    """

    __slots__ = (
        "agrees",
        "ahead",
        "candidates",
        "never",
        "never_pages",
        "page_kb",
        "points",
        "score_agrees",
        "total_pages",
        "why",
    )

    def __init__(
        self,
        agrees: bool | None,
        why: str,
        *,
        ahead: list[int] | None = None,
        candidates: int = 0,
        never: int = 0,
        never_pages: int = 0,
        page_kb: int = 4,
        points: tuple[int, int] | None = None,
        score_agrees: bool | None = None,
        total_pages: tuple[int, int] | None = None,
    ) -> None:
        self.agrees = agrees
        self.why = why
        self.ahead = ahead or []
        self.candidates = candidates
        self.never = never
        self.never_pages = never_pages
        self.page_kb = page_kb
        self.points = points
        self.score_agrees = score_agrees
        self.total_pages = total_pages


def judge(report: Report) -> None:
    """Weigh the tasks of a report, judge the choice, and keep the heaviest tasks only."""
    page_kb = page_size_kb(report)
    total = total_pages(report, page_kb)
    age = version(report)
    for task in report.tasks:
        task.pages = size(task, page_kb)
        task.points = _points(task, total, age)
    agrees, why, ahead = _compare(report)
    victim = chosen_task(report)
    never = [task.pages for task in report.tasks if task.adj == NEVER]
    report.judgement = Judgement(
        agrees,
        why,
        ahead=ahead,
        candidates=len(report.tasks) - len(never),
        never=len(never),
        never_pages=sum(never),
        page_kb=page_kb,
        points=victim.points if victim else None,
        score_agrees=_score_agrees(report, victim, total),
        total_pages=total,
    )
    report.tasks = _kept(report)


def size(task: Task, page_kb: int) -> int:
    """Pages that a task's end would give back: resident, in swap, and its page tables."""
    if task.pgtables_bytes is not None:
        return task.rss + task.swapents + task.pgtables_bytes // (page_kb * 1024)
    return task.rss + task.swapents + (task.nr_ptes or 0) + (task.nr_pmds or 0)


def chosen_task(report: Report) -> Task | None:
    """The row of the process that the kernel chose."""
    return _task(report, report.chosen_pid)


def _task(report: Report, pid: int | None) -> Task | None:
    return next((task for task in report.tasks if pid in (task.pid, task.tgid)), None)


# ---------------------------------------------------------------------------- the weight


def page_size_kb(report: Report) -> int:
    """Of that machine: the victim's size is told in pages and in kB; 4 where it is not."""
    for kill in report.kills:
        task = _task(report, kill.pid)
        if task is not None and task.total_vm and kill.total_vm_kb:
            ratio = kill.total_vm_kb / task.total_vm
            return min(_PAGE_SIZES_KB, key=lambda size: abs(size - ratio))
    return 4


def total_pages(report: Report, page_kb: int) -> tuple[int, int] | None:
    """What oom_score_adj is a thousandth of: the least and the most it can have been."""
    if report.is_memcg:
        return _total_of_memcg(report, page_kb)
    swap_kb = report.mem_info.get("Total swap")
    if swap_kb is None:
        return None
    nodes = _nodes(report)
    if nodes is not None:
        if not nodes or not all(node in report.node_present_kb for node in nodes):
            return None
        ram = sum(report.node_present_kb[node] for node in nodes) // page_kb
    elif "pages RAM" in report.mem_info and "pages reserved" in report.mem_info:
        ram = report.mem_info["pages RAM"] - report.mem_info["pages reserved"]
    else:
        return None
    total = ram + swap_kb // page_kb
    return total, total


def _nodes(report: Report) -> list[int] | None:
    """Whose memory counts where a cpuset or a policy confines the asker; None for all."""
    if report.constraint == "cpuset":
        return node_list(report.mems_allowed or "")
    if report.constraint == "mempolicy":
        return node_list(report.nodemask or "")
    return None


def node_list(text: str) -> list[int]:
    """ "0-2,5" as numbers; nothing where it is no such list."""
    nodes: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last or first).isdecimal() and len(part) < 10):
            return []
        nodes += range(int(first), min(int(last or first), 1023) + 1)
    return nodes


def _total_of_memcg(report: Report, page_kb: int) -> tuple[int, int] | None:
    memory = report.counters.get("memory")
    if memory is None or not memory.is_limited:
        return None
    swap_kb = _swap_of_memcg(report, memory.limit_kb)
    if swap_kb is None:
        return None
    # Without swappiness, which the log does not tell, swap does not count.
    return memory.limit_kb // page_kb, (memory.limit_kb + swap_kb) // page_kb


def _swap_of_memcg(report: Report, limit_kb: int) -> int | None:
    """The most swap that the group can have; None if neither the group nor the log has a bound."""
    known = report.mem_info.get("Total swap", report.swap_known_kb)
    bound = None
    if "swap" in report.counters and report.counters["swap"].is_limited:
        bound = report.counters["swap"].limit_kb
    elif "memory+swap" in report.counters and report.counters["memory+swap"].is_limited:
        bound = max(report.counters["memory+swap"].limit_kb - limit_kb, 0)
    if bound is None:
        return known
    return bound if known is None else min(bound, known)


def _points(task: Task, total: tuple[int, int] | None, age: Ages) -> tuple[int, int] | None:
    """The least and the most; None where oom_score_adj counts and the total is not told."""
    least = most = task.pages
    bonus = task.uid == 0 and age[0] < (4, 17)
    if bonus:  # 3 % of its own from 3.14 on; of 3.10 distributions made either
        least -= task.pages * 3 // 100
    if task.adj or (bonus and age[0] < (3, 14)):
        if total is None:
            return None
        adjs = [task.adj] + ([task.adj - 30] if bonus and age[0] < (3, 14) else [])
        shares = [adj * (pages_of // 1000) for adj in adjs for pages_of in total]
        least, most = least + min(shares), most + max(shares)
    # Until 5.9, and stable kernels of before, nothing weighs less than 1.
    return least, max(most, 1) if age[0] < (5, 9) else most


def version(report: Report) -> Ages:
    """The oldest and the newest kernel that can have written this report."""
    match = re.match(r"(\d+)\.(\d+)", report.kernel or "")
    if match:
        found = int(match[1]), int(match[2])
        return found, found
    if report.constraint and report.nodemask is not None and report.score is None:
        return (5, 0), (99, 0)  # the line "oom-kill:"
    if report.columns and "pgtables_bytes" in report.columns:
        return (4, 15), (99, 0)
    return (3, 10), (99, 0)


# ---------------------------------------------------------------------------- the choice


def _compare(report: Report) -> tuple[bool | None, str, list[int]]:
    """Whether the victim is the heaviest, why, and who is heavier."""
    if report.outcome == "no-victim":
        return _compare_none(report)
    if report.chosen_pid is None:
        return None, "not in the log: who was chosen", []
    if report.is_asker_rule:
        return _compare_asker(report)
    if not report.has_list:
        return None, "not in the log: the list of tasks (vm.oom_dump_tasks=0, or cut off)", []
    if report.columns is None:
        return None, "not in the log: the beginning of the list of tasks", []
    victim = chosen_task(report)
    if victim is None:
        return None, "not in the log: the victim's row in the list of tasks", []
    if victim.adj == NEVER:
        return False, "its oom_score_adj is -1000, which the kernel never chooses", []
    if victim.points is None or any(task.points is None for task in report.tasks):
        return _compare_sizes(report, victim)
    ahead = _ahead(report, victim)
    if ahead:
        names = ", ".join(f"{task.comm} ({task.pid})" for task in ahead[:3])
        return False, f"heavier and not chosen: {names}", [task.pid for task in ahead]
    return True, "the heaviest that may be chosen", []


def _compare_none(report: Report) -> tuple[bool | None, str, list[int]]:
    if report.columns is None:
        return None, "not in the log: the list of tasks (vm.oom_dump_tasks=0, or cut off)", []
    able = [task for task in report.tasks if task.adj != NEVER]
    able = [task for task in able if not _is_dead(task, report)]
    if able:
        names = ", ".join(f"{task.comm} ({task.pid})" for task in able[:3])
        return False, f"none was chosen, although there were {names}", [t.pid for t in able]
    return True, "there was nobody who may be chosen", []


def _compare_asker(report: Report) -> tuple[bool | None, str, list[int]]:
    rule = "vm.oom_kill_allocating_task is set: whoever asks is killed"
    if report.asker_pid is None:
        return None, f"{rule}; the asker's number is not in the log", []
    task = chosen_task(report)
    same = report.asker_pid in (report.chosen_pid, task.pid if task else None)
    # A thread of the victim may have asked, whose number the list does not have.
    if not same and report.asker_comm == report.chosen_comm:
        return None, f"{rule}; the asker, {report.asker_pid}, may be a thread of the victim", []
    return same, rule, []


def _compare_sizes(report: Report, victim: Task) -> tuple[bool | None, str, list[int]]:
    """Without the total: equal adjustments do not change the order, and a lower one puts back."""
    rest = [task for task in _rivals(report, victim) if task.adj > victim.adj]
    heavier = [
        task for task in _rivals(report, victim)
        if task.adj >= victim.adj and task.pages > victim.pages + slack(victim.pages)
        and not (task.uid == 0 and version(report)[0] < (4, 17))
    ]  # fmt: skip
    if heavier:
        names = ", ".join(f"{task.comm} ({task.pid})" for task in heavier[:3])
        return False, f"heavier and not chosen: {names}", [task.pid for task in heavier]
    lighter = [
        task for task in _rivals(report, victim)
        if task.adj <= victim.adj and task.pages <= victim.pages + slack(victim.pages)
    ]  # fmt: skip
    if not rest and len(lighter) == len(_rivals(report, victim)):
        return True, "the heaviest, and none has a higher oom_score_adj", []
    return None, "not in the log: the total that oom_score_adj is a thousandth of", []


def _rivals(report: Report, victim: Task) -> list[Task]:
    return [
        task for task in report.tasks
        if task is not victim and task.adj != NEVER and not _is_dead(task, report)
    ]  # fmt: skip


def _is_dead(task: Task, report: Report) -> bool:
    """Killed before, its memory reaped: such are passed over until they are gone."""
    return report.killed_before.get(task.tgid) == task.comm


def _ahead(report: Report, victim: Task) -> list[Task]:
    """Those whose least is more than the victim's most, and what counting late can explain."""
    assert victim.points is not None
    most = victim.points[1] + slack(abs(victim.points[1]))
    ahead = [t for t in _rivals(report, victim) if t.points is not None and t.points[0] > most]
    return sorted(ahead, key=lambda task: -(task.points or (0, 0))[0])


def slack(pages: int) -> int:
    """By how much two weights may differ for no reason."""
    return max(_SLACK_PAGES, pages // _SLACK_SHARE)


def _score_agrees(
    report: Report, victim: Task | None, total: tuple[int, int] | None
) -> bool | None:
    """Whether the score that was printed, thousandths of the total, is the one from the list."""
    if report.score is None or victim is None or victim.points is None or not total or not total[0]:
        return None
    spare = slack(abs(victim.points[1]))
    least = (victim.points[0] - spare) * 1000 // total[1]
    most = (victim.points[1] + spare) * 1000 // total[0] + 1
    return least <= report.score <= most


def _kept(report: Report) -> list[Task]:
    """The heaviest first; the chosen, the killed, and the largest that may not be chosen too."""
    named = {report.chosen_pid, *(kill.pid for kill in report.kills)}
    kept = heapq.nsmallest(_KEPT, report.tasks, key=_rank)
    kept += heapq.nlargest(_KEPT, report.tasks, key=_pages)
    kept += [task for task in report.tasks if task.pid in named or task.tgid in named]
    return sorted({id(task): task for task in kept}.values(), key=_rank)


def _rank(task: Task) -> tuple[bool, int]:
    return task.adj == NEVER, -(task.points or (task.pages,))[0]


def _pages(task: Task) -> int:
    return task.pages
