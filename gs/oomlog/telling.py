"""What each message of the kernel adds to a report."""

from __future__ import annotations

from . import messages
from .facts import Counter, Kill, Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from .facts import Report
    from .messages import Match


def tell(kind: str, match: Match, report: Report) -> None:
    """Write down what a message of :func:`classify` tells."""
    _TELLERS[kind](match, report)
    report.part = _NEXT.get(kind, "")


#: What may follow; everything else ends the part.
_NEXT = {
    "stats": "stats",
    "stat": "stats",
    "slabs": "slabs",
    "slab": "slabs",
    "limit begins": "limit",
    "limit goes on": "limit's path",
}


def _tell_asker(match: Match, report: Report) -> None:
    report.is_headless = False
    report.asker_comm = match[1]
    report.gfp_mask, report.gfp_flags = match[2], match[3]
    report.nodemask = match[4]
    report.order = int(match[5])
    report.asker_adj = None if match[6] is None else int(match[6])


def _tell_of_asker(match: Match, report: Report) -> None:
    # An interrupt's trace, or a warning's, may stand in between.
    if report.asker_pid is None and match[2] in (report.asker_comm, None):
        report.asker_pid = int(match[1])
        release = messages.RELEASE.search(" " + match[3])
        report.kernel = release[1] if release else None


def _tell_cpuset(match: Match, report: Report) -> None:
    report.cpuset, report.mems_allowed = match[2], match[3]


def _tell_limit(match: Match, report: Report) -> None:
    report.scope = report.constraint = "memcg"
    report.task_memcg, report.memcg = match[1], match[2]


def _tell_limit_begins(match: Match, report: Report) -> None:
    report.scope = report.constraint = "memcg"
    report.task_memcg = match[1]


def _tell_limit_goes_on(match: Match, report: Report) -> None:
    report.memcg = match[1] or report.memcg


def _tell_limits_path(match: Match, report: Report) -> None:
    report.memcg = report.memcg or match[1]


def _tell_counter(match: Match, report: Report) -> None:
    report.scope = report.constraint = "memcg"
    report.counters[match[1]] = Counter(int(match[2]), int(match[3]), int(match[4]))


def _tell_stats(match: Match, report: Report) -> None:
    report.scope = report.constraint = "memcg"
    if report.memcg is None:
        report.memcg = match[1]
    # In older kernels there is a line for each group below the limit's, with its own figures.
    for key, value in messages.V1_STAT.findall(match[2]):
        report.stats[key] = report.stats.get(key, 0) + int(value) * 1024


def _tell_stat(match: Match, report: Report) -> None:
    report.stats[match[1]] = int(match[2])


def _tell_mem_info(match: Match, report: Report) -> None:
    report.scope = report.scope or "global"


def _tell_pages(match: Match, report: Report) -> None:
    for key, value in messages.MEM_INFO.findall(match.string):
        report.mem_info.setdefault(key, int(value))


def _tell_pages_of(match: Match, report: Report) -> None:
    report.mem_info[match[2]] = int(match[1])


def _tell_zone(match: Match, report: Report) -> None:
    node = int(match[1] or 0)
    report.node_present_kb[node] = report.node_present_kb.get(node, 0) + int(match[5])
    report.free_zones.append((match[2], int(match[3]), int(match[4])))
    _tell_node(match, report)


def _tell_node(match: Match, report: Report) -> None:
    """Stacks are told of each zone, from 5.9 on of each node."""
    stacks = messages.STACKS.search(match.string)
    if stacks:
        before = report.mem_info.get("kernel_stack_kb", 0)
        report.mem_info["kernel_stack_kb"] = before + int(stacks[1])


def _tell_swap(match: Match, report: Report) -> None:
    report.mem_info[match[1]] = int(match[2])


def _tell_nothing(match: Match, report: Report) -> None:
    """A heading."""


def _tell_slab(match: Match, report: Report) -> None:
    if match[1] != "Name":
        report.slabs.append((match[1], int(match[3])))


def _tell_columns(match: Match, report: Report) -> None:
    report.columns = tuple(match[1].split())
    report.has_list = True


def _tell_task(match: Match, report: Report) -> None:
    values = list(map(int, match[2].split()))
    names = report.columns
    if names is None:
        names = _usual_columns(values)
        report.has_list = True
    report.tasks.append(Task(int(match[1]), match[3] or "", dict(zip(names, values))))


def _usual_columns(values: list[int]) -> tuple[str, ...]:
    """Those of the list that has so many."""
    names = next(one for one in messages.USUAL_COLUMNS if len(one) == len(values))
    if "tables" not in names:
        return names
    # In bytes they are whole pages, and there is at least one.
    tables = values[names.index("tables")]
    unit = "pgtables_bytes" if tables and tables % 4096 == 0 else "nr_ptes"
    return tuple(unit if name == "tables" else name for name in names)


_CONSTRAINTS = {
    "CONSTRAINT_NONE": "none",
    "CONSTRAINT_CPUSET": "cpuset",
    "CONSTRAINT_MEMORY_POLICY": "mempolicy",
    "CONSTRAINT_MEMCG": "memcg",
}


def _tell_summary(match: Match, report: Report) -> None:
    report.constraint = _CONSTRAINTS.get(match[1])
    if report.constraint:
        report.scope = "memcg" if report.constraint == "memcg" else "global"
    report.nodemask = match[2] or report.nodemask
    report.cpuset, report.mems_allowed = match[3] or report.cpuset, match[4] or report.mems_allowed
    report.memcg = match[5] or report.memcg
    report.task_memcg = match[6] or report.task_memcg
    if match[8]:
        report.chosen_comm, report.chosen_pid = match[7], int(match[8])
        report.chosen_uid = int(match[9])


def _tell_victim(match: Match, report: Report) -> None:
    _tell_message(match[1], report)
    report.chosen_pid, report.chosen_comm = int(match[2]), match[3]
    report.score = int(match[4])


def _tell_message(message: str, report: Report) -> None:
    if message.startswith("Memory cgroup"):
        report.scope = report.constraint = "memcg"
    elif message:
        report.scope = report.scope or "global"
    report.is_asker_rule = report.is_asker_rule or "allocating_task" in message


def _tell_killed(match: Match, report: Report) -> None:
    _tell_message(match[1], report)
    report.outcome = "killed"
    pid = int(match[2])
    figures = {key: int(value) for key, value in messages.FIGURE.findall(match[5])}
    if match[4]:
        figures.setdefault("UID", int(match[4]))
    if all(kill.pid != pid for kill in report.kills):
        report.kills.append(Kill(pid, match[3], figures))
    if report.chosen_pid is None:
        report.chosen_pid, report.chosen_comm = pid, match[3]


def _tell_exiting(match: Match, report: Report) -> None:
    _tell_message(match[1], report)
    report.outcome = "exiting"
    report.chosen_pid, report.chosen_comm = int(match[2]), match[3]


def _tell_no_victim(match: Match, report: Report) -> None:
    report.outcome = "no-victim"
    if match[0].startswith("Memory cgroup"):
        report.scope = report.constraint = "memcg"


def _tell_panic(match: Match, report: Report) -> None:
    report.panic = match[1]
    if report.outcome is None:
        report.outcome = "no-victim" if "killable" in match[1] else "panic"


def _tell_group(match: Match, report: Report) -> None:
    report.group = match[1]


_TELLERS: dict[str, Callable[[Match, Report], None]] = {
    "asker": _tell_asker,
    "asker's": _tell_of_asker,
    "cpuset": _tell_cpuset,
    "limit": _tell_limit,
    "limit begins": _tell_limit_begins,
    "limit goes on": _tell_limit_goes_on,
    "limit's path": _tell_limits_path,
    "counter": _tell_counter,
    "stats": _tell_stats,
    "stat": _tell_stat,
    "mem-info": _tell_mem_info,
    "pages": _tell_pages,
    "pages of": _tell_pages_of,
    "zone": _tell_zone,
    "node": _tell_node,
    "swap": _tell_swap,
    "slabs": _tell_nothing,
    "slab": _tell_slab,
    "columns": _tell_columns,
    "task": _tell_task,
    "summary": _tell_summary,
    "victim": _tell_victim,
    "killed": _tell_killed,
    "exiting": _tell_exiting,
    "no victim": _tell_no_victim,
    "panic": _tell_panic,
    "group": _tell_group,
}
