"""What is set aside for handlers: with nothing free and nothing cached, each still does its work.

Before every OOM the page cache is dropped, so that all of the handler must be read. GS_COUNT / 10
is how often each handler is tried.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from harness import (
    SLOWER,
    Events,
    Scene,
    features,
    program,
    register,
    sysctl,
    wait_for_reserve,
    write_registry,
)

COUNT = max(int(os.environ.get("GS_COUNT", "50")) // 10, 3)

#: On the root file system, from where it must be read anew.
PLACE = Path("/var/tmp/gs-reserve")


@dataclass(frozen=True)
class Handler:
    """One kind of program, and how it says that it was there: with a file."""

    name: str
    words: tuple[str, ...]


HANDLERS = [
    Handler("static", (str(PLACE / "write_file"), str(PLACE / "saved"))),
    Handler("dynamic", ("/usr/bin/touch", str(PLACE / "saved"))),
    Handler("shell", (str(PLACE / "save.sh"), str(PLACE / "saved"))),
    Handler("python", (str(PLACE / "save.py"), str(PLACE / "saved"))),
]


@pytest.fixture(scope="module", autouse=True)
def handlers() -> Iterator[None]:
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir()
    shutil.copy(program("write_file"), PLACE)
    (PLACE / "save.sh").write_text('#!/bin/sh\necho "$GS_VICTIM_PID" >"$1"\n')
    (PLACE / "save.py").write_text(
        "#!/usr/bin/python3\n"
        "import json, os, sys\n"
        "with open(sys.argv[1], 'w') as file:\n"
        "    json.dump({'victim': os.environ.get('GS_VICTIM_PID')}, file)\n"
    )
    for name in ("save.sh", "save.py"):
        (PLACE / name).chmod(0o755)
    yield
    shutil.rmtree(PLACE)


@pytest.fixture
def ready() -> Iterator[None]:
    """Something is registered, so that the reserve is there and is gathered again. One OOM follows
    another, and on a slow kernel all their graces are more than a minute usually has."""
    with sysctl("max_grace_ms", int(30_000 * SLOWER)):
        write_registry(f"{os.getpid()} {program('do_nothing')}\n")
        yield
        write_registry(f"-{os.getpid()}\n")


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def alone_ms(handler: Handler) -> float:
    """From an equally cold cache, with memory enough."""
    times = []
    for _ in range(3):
        drop_caches()
        begin = time.monotonic()
        subprocess.run(handler.words, check=True, env={"GS_VICTIM_PID": "1"})
        times.append((time.monotonic() - begin) * 1000)
    return statistics.median(times)


@dataclass
class Tries:
    """What came of one OOM after another: how long each handler took that did its work."""

    times_ms: list[float] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        return statistics.median(self.times_ms or [float("inf")])


def tries(handler: Handler, count: int, *victim_options: str) -> Tries:
    """One OOM after another, with all that is set aside, and from a cold cache."""
    saved = PLACE / "saved"
    found = Tries()
    for number in range(count):
        saved.unlink(missing_ok=True)
        events = Events()
        scene = Scene("global", events)
        try:
            victim = scene.victim(*victim_options)
            register(victim.pid, *handler.words, grace_ms=int(15_000 * SLOWER))
            wait_for_reserve()
            drop_caches()
            kill = scene.kill_of(victim)
            ends = events.all(pid=victim.pid)
            if kill["outcome"] != "done" or not saved.exists():
                found.bad.append(f"OOM {number}: {ends}")
            else:
                found.times_ms.append(int(ends[1]["elapsed_us"]) / 1000)
        finally:
            scene.close()
            events.close()
    return found


@pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.name)
def test_each_handler_every_time(
    handler: Handler, ready: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also an interpreter, at the default reserve, and near the time that it takes alone."""
    alone = alone_ms(handler)
    found = tries(handler, COUNT, "--block", "4M")
    with capsys.disabled():
        print(
            f"\n{handler.name}: {len(found.times_ms)} of {COUNT}, median {found.median_ms:.0f} ms,"
            f" longest {max(found.times_ms, default=0):.0f} ms, alone {alone:.0f} ms,"
            f" ratio {found.median_ms / alone:.2f}"
        )
    assert not found.bad, found.bad[:3]


def test_the_threads_of_the_victim_wait(ready: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Or they reclaim what the handler has read, again and again, until nothing is set aside: it
    takes one of these 3 MB, and before they waited 13 of 20 had enough."""
    if "fault-end" not in features()["capabilities"]:
        pytest.skip("askers wait where they allocate")
    with sysctl("reserve_kb", 3072):
        found = tries(HANDLERS[0], 2 * COUNT, "--threads", "8")
    wait_for_reserve()
    with capsys.disabled():
        print(
            f"\neight threads: {len(found.times_ms)} of {2 * COUNT}, median {found.median_ms:.0f}"
            f" ms, longest {max(found.times_ms, default=0):.0f} ms"
        )
    assert not found.bad, found.bad[:3]


def test_what_a_session_takes_does_not_pass_for_free_memory(ready: None, machine: Scene) -> None:
    """What was handed over is free for a while: that is no `averted`."""
    wait_for_reserve()
    victim = machine.victim("--block", "4M")
    register(victim.pid, program("do_nothing"), grace_ms=5000)
    machine.kill_of(victim)
    machine.events.expect(victim.pid, "grace", "done", "kill")


def test_the_size_can_be_set(ready: None) -> None:
    wait_for_reserve()
    for size in (2048, 16384, 0):
        with sysctl("reserve_kb", size):
            wait_for_reserve()
    wait_for_reserve()


def test_a_handler_without_a_reserve(ready: None, machine: Scene, tmp_path: Path) -> None:
    """With nothing set aside the kill is as certain."""
    with sysctl("reserve_kb", 0):
        wait_for_reserve()
        victim = machine.victim("--block", "4M")
        register(victim.pid, program("write_file"), tmp_path / "saved", grace_ms=3000)
        kill = machine.kill_of(victim)
    assert kill["outcome"] in ("done", "failed", "timeout")
