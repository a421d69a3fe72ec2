"""OOM kills of processes that want nothing of us; runs on a kernel without our patches, too."""

from __future__ import annotations

from typing import Any

from harness import MB, REGISTRY, Group, program, sysctl

from benchmarks.guest.machine import Progress, clock_kills

#: A small memory cgroup: a kill is timed, not the filling.
LIMIT = 4 * MB

#: Kills between two words about the progress.
TURN = 10


def measure(count: int) -> dict[str, Any]:
    """``count`` kills with nothing registered, then as many more: on a patched kernel these are
    registered and `enabled=0`, on another they are as before, for comparison."""
    group = Group(LIMIT)
    clock_kills(group.path, TURN)  # what a first time costs is not measured
    turns = (count + TURN - 1) // TURN
    progress = Progress(2 * turns)
    plain = _kills(group, turns, [], progress)
    if REGISTRY.exists():
        with sysctl("enabled", 0):
            disabled = _kills(group, turns, [program("do_nothing")], progress)
    else:
        disabled = _kills(group, turns, [], progress)
    group.remove()
    return {"plain": plain[:count], "disabled": disabled[:count]}


def _kills(group: Group, turns: int, handler: list[str], progress: Progress) -> list[int]:
    found: list[int] = []
    for _ in range(turns):
        found += clock_kills(group.path, TURN, handler)
        progress.step()
    return found
