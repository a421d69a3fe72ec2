"""What the kernel prints of an OOM, from 3.10 to 6.12: which message a line is.

Sources: mm/oom_kill.c, mm/memcontrol.c, mm/page_alloc.c (mm/show_mem.c from 6.4), mm/util.c and
kernel/cgroup/cpuset.c of those versions.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence, Tuple

    from .facts import Report

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
MEM_INFO = re.compile(r"(\w{3,30}):(\d{1,20})(?= |$)")
#: The first words of Mem-Info's lines of pages.
_MEM_INFO_LINES = frozenset(
    ("active_anon", "active_file", "unevictable", "free", "slab_reclaimable", "mapped")
    + ("sec_pagetables", "kernel_misc_reclaimable", "free_cma", "free_pcp")
)
_STAT = re.compile(rf"(\w{{2,40}}) {_N}$")
V1_STAT = re.compile(r"(\w{2,30}):(\d{1,20})KB")
_SLAB = re.compile(rf"(\S+) +{_N}KB +{_N}KB$")
STACKS = re.compile(r" kernel_stack:(\d{1,12})kB")
RELEASE = re.compile(r" (\d{1,2}\.\d{1,3}[\w.+~-]{0,60}) #")
FIGURE = re.compile(r"([\w-]{1,20}):(-?\d{1,20})")

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
USUAL_COLUMNS = (
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
    if report is not None and report.columns is not None:
        row = _ROW_OF[len(report.columns)].match(text)
        if row is not None:
            return "task", row
    columns = _COLUMNS.match(text)
    if columns is not None and _can_be_read(columns[1].split()):
        return "columns", columns
    if report is None or report.columns is not None:
        return None
    for one in USUAL_COLUMNS:
        match = _ROW_OF[len(one)].match(text)
        if match is not None:
            return "task", match
    return None


def _can_be_read(columns: list[str]) -> bool:
    return set(columns) >= _NEEDED and len(columns) in _ROW_OF


def _classify_within(text: str, word: str, report: Report) -> Found | None:
    found = _first(_WITHIN.get(word, ()), text)
    if found is not None:
        return found
    if word in _MEM_INFO_LINES:
        match = MEM_INFO.match(text)
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
