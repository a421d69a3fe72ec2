"""What the kernel prints of an OOM, from 3.10 to 6.12: the grammar of each message, and what it
adds to a report.

Sources: mm/oom_kill.c, mm/memcontrol.c, mm/page_alloc.c (mm/show_mem.c from 6.4), mm/util.c and
kernel/cgroup/cpuset.c of those versions.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, Sequence, Tuple

    from .reports import Report

    Match = re.Match[str]
    Found = Tuple[str, Match]

_N = r"(\d{1,20})"
_HAS_COMM = r"(.{0,64}?)"


def _compiled(*pairs: tuple[str, str]) -> Sequence[tuple[str, re.Pattern[str]]]:
    return [(kind, re.compile(pattern)) for kind, pattern in pairs]


#: By the first word of a message, up to a blank or a colon: what it may be.
_MESSAGES = {
    "Task": _compiled(
        ("limit", r"Task in (/.*) killed as a result of limit of (/.*)$"),
        ("limit begins", r"Task in (/.*)$"),
    ),
    "memory": _compiled(("counter", rf"(memory): usage {_N}kB, limit {_N}kB, failcnt {_N}")),
    "memory+swap": _compiled(
        ("counter", rf"(memory\+swap): usage {_N}kB, limit {_N}kB, failcnt {_N}")
    ),
    "swap": _compiled(("counter", rf"(swap): usage {_N}kB, limit {_N}kB, failcnt {_N}")),
    "kmem": _compiled(("counter", rf"(kmem): usage {_N}kB, limit {_N}kB, failcnt {_N}")),
    "Memory": _compiled(
        (
            "killed",
            r"(Memory cgroup out of memory): Killed process "
            + rf"{_N} \((.*)\),?(?: UID (\d{{1,10}}),)? (total-vm:.*)",
        ),
        (
            "victim",
            rf"(Memory cgroup out of memory): Kill process {_N} \((.*)\) score (-?\d{{1,20}})",
        ),
        ("exiting", rf"(Memory cgroup out of memory): OOM victim {_N} \((.*)\) is already exiting"),
        ("no victim", r"Memory cgroup charge failed because of no reclaimable memory"),
        ("stats", r"Memory cgroup stats(?: for (.*?))?: ?((?:\w+:\d+KB ?)*)$"),
    ),
    "Out": _compiled(
        ("no victim", "Out of memory and no killable processes"),
        (
            "killed",
            r"(Out of memory(?: \([^)]*\))?): Killed process "
            + rf"{_N} \((.*)\),?(?: UID (\d{{1,10}}),)? (total-vm:.*)",
        ),
        (
            "victim",
            rf"(Out of memory(?: \([^)]*\))?): Kill process {_N} \((.*)\) score (-?\d{{1,20}})",
        ),
        (
            "exiting",
            rf"(Out of memory(?: \([^)]*\))?): OOM victim {_N} \((.*)\) is already exiting",
        ),
    ),
    "Killed": _compiled(
        ("killed", rf"()Killed process {_N} \((.*)\),?(?: UID (\d{{1,10}}),)? (total-vm:.*)")
    ),
    "Tasks": _compiled(("group", r"Tasks in (/.*) are going to be killed due to memory\.oom\.gro")),
    "oom-kill": _compiled(
        (
            "summary",
            r"oom-kill:constraint=(CONSTRAINT_\w+)(?:,nodemask=(.*?)(?:,cpuset=(.*?),mems_allowed="
            + r"([\d,-]*?)(?:,global_oom|,oom_memcg=(.*?))?(?:,task_memcg=(.*?))?"
            + rf"(?:,task=(.*?),pid={_N},uid={_N})?)?)?$",
        ),
    ),
    "Kernel": _compiled(
        ("panic", r"Kernel panic - not syncing: (.*(?:[Oo]ut of memory|on memory).*)")
    ),
    "oom_reaper": _compiled(
        ("reaper", rf"oom_reaper: (reaped process) {_N} "),
        ("reaper", rf"oom_reaper: (unable to reap) pid:{_N} "),
    ),
    "__vm_enough_memory": _compiled(
        (
            "refusal",
            rf"__vm_enough_memory: pid: {_N}, comm: (.*?), (?:bytes: {_N} )?"
            r"not? enough memory for the allocation",
        )
    ),
    "Adding": _compiled(("swap on", rf"Adding {_N}k swap on ")),
    "Linux": _compiled(("boot", "Linux version ")),
}

_ZONE = _compiled(
    (
        "zone",
        rf"(?:Node {_N} )?(\w{{1,20}}) free:{_N}kB.*? min:{_N}kB.*? present:{_N}kB managed:",
    ),
    ("node", r"Node \d+ active_anon:"),
)

#: The same for messages that mean something only within a report.
_WITHIN = {
    "CPU": _compiled(("asker's", rf"CPU: \d+ (?:UID: \d+ )?PID: {_N} Comm: {_HAS_COMM} (.*)")),
    "Mem-Info": _compiled(("mem-info", "Mem-Info:")),
    # Without CONFIG_NUMA a zone's line begins with its name.
    **dict.fromkeys(("Node", "DMA", "DMA32", "Normal", "HighMem", "Movable"), _ZONE),
    "Free": _compiled(("swap", rf"(Free swap) *= {_N}kB")),
    "Total": _compiled(("swap", rf"(Total swap) *= {_N}kB")),
    "Unreclaimable": _compiled(("slabs", "Unreclaimable slab info:")),
}
_PAGES = re.compile(rf"{_N} (pages RAM|pages reserved|total pagecache pages)$")
_MEM_INFO = re.compile(r"(\w{3,30}):(\d{1,20})(?= |$)")
#: The first words of Mem-Info's lines of pages.
_MEM_INFO_LINES = frozenset(
    ("active_anon", "active_file", "unevictable", "free", "slab_reclaimable", "mapped")
    + ("sec_pagetables", "kernel_misc_reclaimable", "free_cma", "free_pcp")
)
_STAT = re.compile(rf"(\w{{2,40}}) {_N}$")
_V1_STAT = re.compile(r"(\w{2,30}):(\d{1,20})KB")
_SLAB = re.compile(rf"(\S+) +{_N}KB +{_N}KB$")
_STACKS = re.compile(r" kernel_stack:(\d{1,12})kB")
_RELEASE = re.compile(r" (\d{1,2}\.\d{1,3}[\w.+~-]{0,60}) #")
_FIGURE = re.compile(r"([\w-]{1,20}):(-?\d{1,20})")

_ASKER = re.compile(
    r"(.*) invoked oom-killer: gfp_mask=(0x[0-9a-f]{1,16})(?:\(([^)]*)\))?, "
    r"(?:nodemask=(\S*?), +)?order=(-?\d{1,3})(?:, oom_score_adj=(-?\d{1,5}))?"
)
_CPUSET = re.compile(r"(\S.*) cpuset=(\S+) mems_allowed=([\d,-]*)$")
_LIMIT_GOES_ON = re.compile(r"killed as a result of limit of ?(/.*)?$")
_PATH = re.compile("(/.*)$")

_COLUMNS = re.compile(r"\[ *pid *\] +(uid +tgid +total_vm +rss [\w ]*?oom_score_adj) name$")
_NEEDED = frozenset(("uid", "tgid", "total_vm", "rss", "swapents", "oom_score_adj"))
#: Where the heading is not in the log, the number of columns tells which list it is.
_USUAL_COLUMNS = (
    ("uid", "tgid", "total_vm", "rss", "rss_anon", "rss_file", "rss_shmem")
    + ("pgtables_bytes", "swapents", "oom_score_adj"),
    ("uid", "tgid", "total_vm", "rss", "nr_ptes", "nr_pmds", "swapents", "oom_score_adj"),
    ("uid", "tgid", "total_vm", "rss", "tables", "swapents", "oom_score_adj"),
)
_ROW_OF = {
    count: re.compile(rf"\[ *(\d{{1,10}})\]((?: +-?\d{{1,20}}){{{count}}})(?: (.*))?$", re.DOTALL)
    for count in range(6, 13)
}

#: What is told of a machine or a process, not of the report that is open.
ASIDE = frozenset(("boot", "swap on", "reaper", "refusal"))
#: With these a report is complete.
LAST = frozenset(("killed", "no victim", "exiting", "panic"))


def classify(text: str, report: Report | None) -> Found | None:
    """Which message it is; within a report also those that mean nothing elsewhere."""
    text = text.strip()
    if text.startswith("["):
        return _classify_task(text, report)
    word = text.partition(" ")[0].partition(":")[0]
    found = _first(_MESSAGES.get(word, ()), text)
    if found is None and "invoked oom-killer" in text:
        found = _first((("asker", _ASKER),), text)
    if found is None and report is not None:
        found = _classify_within(text, word, report)
    return found


def _first(patterns: Sequence[tuple[str, re.Pattern[str]]], text: str) -> Found | None:
    for kind, pattern in patterns:
        match = pattern.match(text)
        if match is not None:
            return kind, match
    return None


def _classify_task(text: str, report: Report | None) -> Found | None:
    columns = _COLUMNS.match(text)
    if columns is not None and set(columns[1].split()) >= _NEEDED:
        return "columns", columns
    if report is None:
        return None
    counts = [len(report.columns)] if report.columns else [len(one) for one in _USUAL_COLUMNS]
    for count in counts:
        match = _ROW_OF[count].match(text) if count in _ROW_OF else None
        if match is not None:
            return "task", match
    return None


def _classify_within(text: str, word: str, report: Report) -> Found | None:
    found = _first(_WITHIN.get(word, ()), text)
    if found is not None:
        return found
    if word in _MEM_INFO_LINES:
        match = _MEM_INFO.match(text)
        if match is not None:
            return "pages", match
    if word[:1].isdigit():
        return _first((("pages of", _PAGES),), text)
    if "cpuset=" in text:
        return _first((("cpuset", _CPUSET),), text)
    return _first(_PARTS.get(report.part, ()), text)


#: By the part of a report that a line may go on with.
_PARTS = {
    "stats": (("stat", _STAT),),
    "slabs": (("slab", _SLAB),),
    "limit": (("limit goes on", _LIMIT_GOES_ON),),
    "limit's path": (("limit's path", _PATH),),
}


def begins_another(kind: str, match: Match, report: Report) -> bool:
    """Whether this message cannot be of the report that is open: its own end is not in the log."""
    if kind == "asker":
        return True
    if kind == "columns":
        return report.has_list
    if kind == "summary":
        return report.constraint is not None and report.chosen_pid is not None
    return kind == "counter" and match[1] in report.counters


def continues(kind: str, match: Match, last: Report) -> bool:
    """Whether this message is of a report that was complete already."""
    if kind == "killed":
        return last.group is not None
    if kind == "group":
        return last.outcome == "killed"
    return kind == "panic" and last.outcome == "no-victim"


# ---------------------------------------------------------------------------- what each tells


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
        release = _RELEASE.search(" " + match[3])
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
    from .reports import Counter

    report.scope = report.constraint = "memcg"
    report.counters[match[1]] = Counter(int(match[2]), int(match[3]), int(match[4]))


def _tell_stats(match: Match, report: Report) -> None:
    report.scope = report.constraint = "memcg"
    if report.memcg is None:
        report.memcg = match[1]
    # In older kernels there is a line for each group below the limit's, with its own figures.
    for key, value in _V1_STAT.findall(match[2]):
        report.stats[key] = report.stats.get(key, 0) + int(value) * 1024


def _tell_stat(match: Match, report: Report) -> None:
    report.stats[match[1]] = int(match[2])


def _tell_mem_info(match: Match, report: Report) -> None:
    report.scope = report.scope or "global"


def _tell_pages(match: Match, report: Report) -> None:
    for key, value in _MEM_INFO.findall(match.string):
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
    stacks = _STACKS.search(match.string)
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
    from .reports import Task

    values = [int(word) for word in match[2].split()]
    names = report.columns
    if names is None:
        names = next(one for one in _USUAL_COLUMNS if len(one) == len(values))
    columns = dict(zip(names, values))
    if "tables" in columns:  # bytes are whole pages, and there is at least one
        tables = columns["tables"]
        columns["pgtables_bytes" if tables and tables % 4096 == 0 else "nr_ptes"] = tables
    report.has_list = True
    report.tasks.append(Task(int(match[1]), match[3] or "", columns))


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
    from .reports import Kill

    _tell_message(match[1], report)
    report.outcome = "killed"
    pid = int(match[2])
    figures = {key: int(value) for key, value in _FIGURE.findall(match[5])}
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
