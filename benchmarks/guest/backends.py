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
from benchmarks.guest.trials import Handler
from gs.eventstream import EventStream

LIMIT = "64M"

#: Of the five, those that need nothing but their words.
HANDLERS = [
    Handler("nothing", ("do_nothing",)),
    Handler("write", ("write_file", "/var/tmp/bench-saved")),
]


def measure(trials: int, backend: str) -> dict[str, Any]:
    """All trials of one backend, in one boot of a kernel with the module."""
    if backend != "kernel":
        subprocess.run(["rmmod", "gs_oom"], check=True)
    if backend == "cgroup1":
        cgroups.move_to_v1()
    progress = Progress(len(HANDLERS) * trials)
    clocks = [Clock("spawn_clock", "GS_VICTIM_PID=1", *each.command) for each in HANDLERS]
    return {
        "trials": [
            row
            for _ in range(trials)
            for handler, clock in zip(HANDLERS, clocks, strict=True)
            for row in _trial(backend, handler, clock, progress)
        ]
    }


def _trial(
    backend: str, handler: Handler, clock: Clock, progress: Progress
) -> Iterator[dict[str, Any]]:
    _, begun, ended, status, *_ = clock.ask()
    alone = {"ns": ended - begun} if status == 0 else {"problem": f"wait status {status}"}
    yield {"handler": handler.name, "way": "alone", **alone}
    stream = EventStream(follow=False)
    try:
        stream.available()
        process = subprocess.Popen(
            [sys.executable, "-S", "-m", "gs", "run", "--backend", backend]
            + ["--memory-max", LIMIT, "--grace", "5s", "--on-oom", " ".join(handler.command)]
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
    row: dict[str, Any] = {"handler": handler.name, "way": "oom"}
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
