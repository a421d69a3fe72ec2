"""What registrations cost, and what very many of them cost the others.

Needs a machine with 4 GB: each registration is a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import MB, Group, program, register, sysctl

from benchmarks.guest.machine import Clock, Progress, clock_kills

HANDLER = program("do_nothing")

#: Processes whose registration is timed together; emulated, a look at the clock costs more.
TOGETHER = 100

#: Lines in one write.
LINES = 10_000

#: Registrations of "very many".
ENTRIES = 100_000

#: A small memory cgroup: a kill is timed, not the filling.
LIMIT = 4 * MB

#: How often each of the two states has its turn.
TURNS = 5

#: Kills of each kind in each state; a median of fewer says nothing of 5 %.
KILLS = 200


def measure(count: int) -> dict[str, Any]:
    """``count``: samples of each figure but kills."""
    Path("/proc/sys/kernel/threads-max").write_text("200000")
    Path("/proc/sys/kernel/pid_max").write_text("400000")
    progress = Progress(count + count + 2 * TURNS)
    register(os.getpid(), HANDLER)
    with sysctl("max_entries", 2 * ENTRIES):
        return {
            "costs": _costs(count, progress),
            "writes": _writes(count, progress),
            "kills": _kills(KILLS // TURNS, progress),
        }


@contextmanager
def _crowd(size: int) -> Iterator[Clock]:
    clock = Clock("registry_clock", str(size), HANDLER)
    try:
        yield clock
    finally:
        clock.close()


def _costs(count: int, progress: Progress) -> list[list[int]]:
    """Nanoseconds a write: score, registry; then both with open and close."""
    with _crowd(TOGETHER) as clock:
        clock.ask("cost")
        rows = []
        for _ in range(count):
            rows.append(clock.ask("cost"))
            progress.step()
        return rows


def _writes(count: int, progress: Progress) -> dict[str, list[int]]:
    """Nanoseconds for all lines in one write, to register and to remove."""
    added, removed = [], []
    with _crowd(LINES) as clock:
        for _ in range(count):
            added += clock.ask("add")
            removed += clock.ask("remove")
            progress.step()
    return {"add": added, "remove": removed}


def _kills(each: int, progress: Progress) -> list[dict[str, Any]]:
    """Kills with one entry and with very many, turn by turn, all processes being there always."""
    rows = []
    with _crowd(ENTRIES) as crowd:
        group = Group(LIMIT)
        clock_kills(group.path, each)
        # Which state comes first changes, so that what drifts does not count for one of them.
        states = [many for turn in range(TURNS) for many in (turn % 2 == 0, turn % 2 == 1)]
        full = False
        for many in states:
            if many != full:
                crowd.ask("add" if many else "remove")
                full = many
            for registered in (False, True):
                handler = [HANDLER] if registered else []
                for ns in clock_kills(group.path, each, handler):
                    rows.append({"many": many, "registered": registered, "ns": ns})
            progress.step()
        group.remove()
    return rows
