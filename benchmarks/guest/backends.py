"""Handlers by each backend of `gs run`: how long from the choice of the victim to the handler's
end, and from there to the kill, beside the same program alone.

The whole command, with a memory cgroup of its own, as people run it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cgroups
from harness import program, wait_until

from benchmarks.guest.machine import Clock, Progress
from gs.eventstream import EventStream

LIMIT = "64M"

#: Of the five, those that need nothing but their words.
HANDLERS = {"nothing": ("do_nothing",), "write": ("write_file", "/var/tmp/bench-saved")}


def measure(trials: int, backend: str) -> dict[str, Any]:
    """All trials of one backend, in one boot of a kernel with the module."""
    if backend != "kernel":
        subprocess.run(["rmmod", "gs_oom"], check=True)
    if backend == "cgroup1":
        cgroups.move_to_v1()
    progress = Progress(len(HANDLERS) * trials)
    clocks = {name: Clock("spawn_clock", "GS_VICTIM_PID=1", *command(name)) for name in HANDLERS}
    return {
        "trials": [
            row
            for _ in range(trials)
            for name in HANDLERS
            for row in _trial(backend, name, clocks[name], progress)
        ]
    }


def command(name: str) -> list[str]:
    """The handler's words."""
    words = HANDLERS[name]
    return [program(words[0]), *words[1:]]


def _trial(backend: str, name: str, clock: Clock, progress: Progress) -> Iterator[dict[str, Any]]:
    _, begun, ended, status, *_ = clock.ask()
    alone = {"ns": ended - begun} if status == 0 else {"problem": f"wait status {status}"}
    yield {"handler": name, "way": "alone", **alone}
    stream = EventStream(follow=False)
    try:
        stream.available()
        process = subprocess.Popen(
            [sys.executable, "-S", "-m", "gs", "run", "--backend", backend]
            + ["--memory-max", LIMIT, "--grace", "5s", "--on-oom", " ".join(command(name))]
            + ["--", program("oom_condition_creator"), "--now"],
            stdout=subprocess.DEVNULL,
            preexec_fn=_may_be_killed,
        )
        process.wait(120)
        seen: dict[str, Any] = {}

        def told() -> bool:
            seen.update({one.event: one for one in stream.available() if one.pid == process.pid})
            return "kill" in seen

        wait_until(told, timeout=30, why=f"no kill was told: {sorted(seen)}")
    finally:
        stream.close()
    row: dict[str, Any] = {"handler": name, "way": "oom"}
    if set(seen) == {"grace", "done", "kill"} and seen["done"]["exit_status"] == 0:
        row["ns"] = seen["done"]["time_ns"] - seen["grace"]["time_ns"]
        row["kill_ns"] = seen["kill"]["time_ns"] - seen["done"]["time_ns"]
    else:
        row["problem"] = str(seen)
    yield row
    progress.step()


def _may_be_killed() -> None:
    """The guest's init cannot, and who comes from it neither."""
    Path("/proc/self/oom_score_adj").write_text("0")
