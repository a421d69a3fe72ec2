"""Where the time goes: the same trials as in handlers.py, traced, so slower, and only for this.

From the kernel's own tracepoints: when the program's process first ran, when it exec'd, when it
exited; how long it ran, waited for a processor, and slept; how many page faults it met.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.guest.machine import Progress
from benchmarks.guest.trials import KINDS, Failed, Handler, Ran, Stage, Way

TRACING = Path("/sys/kernel/debug/tracing")

EVENTS = (
    "sched/sched_switch",
    "sched/sched_wakeup",
    "sched/sched_wakeup_new",
    "sched/sched_process_exec",
    "sched/sched_process_exit",
    "exceptions/page_fault_user",
    "exceptions/page_fault_kernel",
    "block/block_rq_issue",
)

#: Microseconds after the record `done` in which the trace tells of the same exit.
LATER = 5000.0

#: "  comm-123   [001] d..2.   12.345678: sched_switch: words" (the flags differ by version).
_LINE = re.compile(r"^ *.*-(\d+) +\[(\d+)\] \S+ +(\d+\.\d+): (\w+): (.*)$")


@dataclass
class Phases:
    """One process's way, in microseconds from the beginning of the trial."""

    first_run: float = 0.0
    exec: float = 0.0
    exit: float = 0.0
    running: float = 0.0
    runnable: float = 0.0
    asleep: float = 0.0
    faults: int = 0
    reads: int = 0
    processors: list[int] = field(default_factory=list)


def measure(trials: int) -> dict[str, Any]:
    """A few trials are enough: this explains, and proves nothing."""
    rows = []
    with Stage() as stage, _tracing():
        progress = Progress(2 * len(KINDS) * len(stage.handlers) * trials)
        for _ in range(trials):
            for kind in KINDS:
                for handler in stage.handlers:
                    for name, way in (("alone", stage.alone), ("oom", stage.under_oom)):
                        row = {"kind": kind, "handler": handler.name, "way": name}
                        rows.append({**row, **_traced(way, kind, handler)})
                        progress.step()
    return {"phases": rows}


def _traced(way: Way, kind: str, handler: Handler) -> dict[str, Any]:
    (TRACING / "trace").write_text("")
    try:
        ran = way(kind, handler)
    except Failed as failure:
        return {"problem": str(failure)}
    lines = (TRACING / "trace").read_text(errors="replace").splitlines()
    Path(f"/out/{kind}-{handler.name}-{way.__name__}.trace").write_text("\n".join(lines))
    return vars(phases(lines, ran))


def phases(lines: Iterable[str], ran: Ran) -> Phases:
    """Follow one process through the trace, to its exit."""
    found = Phases()
    begin, end = ran.begin_ns / 1e3, ran.end_ns / 1e3 + LATER
    state, since = "asleep", 0.0
    for match in filter(None, map(_LINE.match, lines)):
        pid, cpu, event, words = int(match[1]), int(match[2]), match[4], match[5]
        at = float(match[3]) * 1e6 - begin
        if not -1 <= at <= end - begin:
            continue
        new = _state(event, words, ran.pid, state)
        if new == "running":
            found.first_run = found.first_run or at
            found.processors += [cpu] if found.processors[-1:] != [cpu] else []
        if pid == ran.pid:
            _note(found, event, at)
        if new or found.exit:
            setattr(found, state, getattr(found, state) + at - since)
            state, since = new or state, at
        if found.exit:
            break
    return found


def _state(event: str, words: str, pid: int, before: str) -> str:
    """What becomes of the process by this event; empty if nothing."""
    if event == "sched_switch" and f"next_pid={pid} " in words:
        return "running"
    if event == "sched_switch" and f"prev_pid={pid} " in words:
        return "runnable" if "prev_state=R" in words else "asleep"
    if event.startswith("sched_wakeup") and f" pid={pid} " in words and before == "asleep":
        return "runnable"
    return ""


def _note(found: Phases, event: str, at: float) -> None:
    """What the process itself does."""
    if event == "sched_process_exec":
        found.exec = at
    elif event == "sched_process_exit":
        found.exit = at
    elif event.startswith("page_fault"):
        found.faults += 1
    elif event == "block_rq_issue":
        found.reads += 1


@contextmanager
def _tracing() -> Iterator[None]:
    (TRACING / "buffer_size_kb").write_text("4096")
    (TRACING / "trace_clock").write_text("boot")
    for event in EVENTS:
        (TRACING / "events" / event / "enable").write_text("1")
    try:
        yield
    finally:
        for event in EVENTS:
            (TRACING / "events" / event / "enable").write_text("0")
