"""What in a kernel log tells of a mistake in the kernel: the reports of its own detectors."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: How each detector begins its report. None of them is in the OOM killer's own words.
SIGNS = re.compile(
    "|".join(
        (
            # lockdep, RCU, DEBUG_OBJECTS, WARN_ON, KASAN, "sleeping function called", soft lockup
            r"\bWARNING: ",
            r"\bBUG: ",
            r"\bBUG [\w:.-]+ \((?:Not tainted|Tainted|[A-Z ]+)",  # SLUB's own: BUG kmalloc-64 (…)
            r"\bDEBUG_LOCKS_WARN_ON\b",
            r"possible (?:recursive|circular|irq) lock",
            r"inconsistent lock state",
            r"suspicious RCU usage",
            r"trying to register non-static key",
            r"lock held when returning to user space",
            r"\bODEBUG: ",
            r"sleeping function called from invalid context",
            r"scheduling while atomic",
            r"\bKASAN: ",
            r"[1-9]\d* new suspected memory leaks",
            r"\bINFO: task .* blocked for more than",
            r"\bsoft lockup\b",
            r"\bhard LOCKUP\b",
            r"workqueue lockup",
            r"hogged CPU",
            r"\brcu_\w+ (?:self-)?detected",
            r"\brcu: INFO: ",
            r"\bRCU Stall\b",
            r"(?:list_add|list_del) corruption",
            r"refcount_t: ",
            r"\bOops\b",
            r"general protection fault",
            r"Unable to handle kernel",
            r"unable to handle page fault for",
            r"Bad page (?:state|map)",
            r"Bad rss-counter state",
            r"\bUBSAN: ",
            # A detector that has given up finds nothing any more.
            r"lockdep is turned off",
            r"turning off the locking correctness validator",
            r"Kernel memory leak detector disabled",
        )
    )
)

#: Lines of a report that are shown: its head, the stack, who allocated and who freed.
SHOWN = 90


def of(lines: Sequence[str]) -> list[str]:
    """The lines by which reports are known."""
    return [line for line in lines if SIGNS.search(line)]


def report(lines: Sequence[str]) -> str:
    """The first report and what follows it, as it stands in the log; empty if there is none."""
    first = next((number for number, line in enumerate(lines) if SIGNS.search(line)), None)
    if first is None:
        return ""
    # lockdep and KASAN rule a line off before the one that tells.
    begin = first - 1 if first and set(lines[first - 1].strip()) == {"="} else first
    return "\n".join(lines[begin : begin + SHOWN])


#: A frame of a backtrace without a name, as a module's are when it has been taken out.
NAMELESS = r"^\s+(?:\[<\w+>\] )?0x[0-9a-f]+$"


def leaks_naming(text: str, name: str) -> list[str]:
    """The records of /sys/kernel/debug/kmemleak whose backtrace has a function with this name, or
    one that has no name any more."""
    records = re.split(r"^(?=unreferenced object )", text, flags=re.MULTILINE)
    trace = re.compile(rf"\b{name}\w*\+0x|{NAMELESS}", re.MULTILINE)
    return [record for record in records if trace.search(record)]
