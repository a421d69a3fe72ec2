"""Handlers under OOM against the same programs alone; and how soon the kill follows.

Each round has every handler in both kinds of OOM in both ways; which way comes first changes from
round to round.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness import program

from benchmarks.guest.machine import Progress
from benchmarks.guest.trials import KINDS, Failed, Handler, Ran, Stage, Way, between

#: Milliseconds of grace for a handler that never ends.
CUT = 200


def measure(trials: int) -> dict[str, Any]:
    """All trials, in one boot."""
    with Stage() as stage:
        progress = Progress((2 * len(stage.handlers) + 1) * len(KINDS) * trials)
        rows = [
            {"round": number, "kind": kind, "handler": handler.name, **row}
            for number in range(trials)
            for kind in KINDS
            for handler in stage.handlers
            for row in _pair(stage, kind, handler, number, progress)
        ]
        cuts = [_cut(stage, kind, progress) for _ in range(trials) for kind in KINDS]
    return {"trials": rows, "cuts": cuts}


def measure_oom(trials: int) -> dict[str, Any]:
    """Under OOM only, for comparison with another kernel."""
    with Stage() as stage:
        progress = Progress(len(stage.handlers) * len(KINDS) * trials)
        rows = [
            {"round": number, "kind": kind, "handler": handler.name, **row}
            for number in range(trials)
            for kind in KINDS
            for handler in stage.handlers
            for row in _trial("oom", stage.under_oom, kind, handler, progress)
        ]
    return {"trials": rows}


def _pair(
    stage: Stage, kind: str, handler: Handler, number: int, progress: Progress
) -> Iterator[dict[str, Any]]:
    ways: list[tuple[str, Way]] = [("oom", stage.under_oom), ("alone", stage.alone)]
    for name, way in ways if number % 2 else reversed(ways):
        yield from _trial(name, way, kind, handler, progress)


def _trial(
    name: str, way: Way, kind: str, handler: Handler, progress: Progress
) -> Iterator[dict[str, Any]]:
    try:
        yield {"way": name, **_row(way(kind, handler))}
    except Failed as failure:
        yield {"way": name, "problem": str(failure)}
    progress.step()


def _row(ran: Ran) -> dict[str, int]:
    row = {"ns": ran.end_ns - ran.begin_ns}
    if ran.kill_ns is not None:
        row["kill_ns"] = ran.kill_ns
    if ran.faults is not None:
        row["minor"], row["major"] = ran.faults
    return row


def _cut(stage: Stage, kind: str, progress: Progress) -> dict[str, Any]:
    """A handler that never ends: how long after its deadline the kill comes."""
    victim = ("oom_condition_creator",)
    records = stage.records(kind, [program("never_ends")], victim, CUT)
    progress.step()
    if not records.keys() >= {"grace", "timeout", "kill"}:
        return {"kind": kind, "problem": str(records)}
    return {
        "kind": kind,
        "timeout_ns": between(records["grace"], records["timeout"]) - CUT * 1_000_000,
        "kill_ns": between(records["grace"], records["kill"]) - CUT * 1_000_000,
    }
