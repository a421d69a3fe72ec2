"""Handlers under OOM against the same programs started the ordinary way; and kill delays.

A trial is a pair. `oom`: a registered victim runs out of memory; the kernel's own records tell when
it was chosen, when the handler ended, when it was killed. `alone`: a victim that is not registered
runs out of memory in the same way and is killed; a moment later the program is started by
posix_spawn and waited for. So both find the same page cache, as the OOM has left it. Which of the
two comes first changes from round to round.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import (
    BALLAST,
    MB,
    Event,
    Events,
    Scene,
    Victim,
    features,
    program,
    register,
    wait_until,
)

from benchmarks.guest.machine import Clock, Progress

KINDS = ("memcg", "global")

FOLDER = Path("/var/tmp/bench")
LINES = FOLDER / "lines"
SAVED = FOLDER / "saved"
SHARED = "/gs-bench"

#: As much as oom_condition_creator_shm writes by default.
TEXT = "".join(f"line {number:08} of gs shared memory\n" for number in range(1000))

#: Milliseconds of grace for a handler that never ends, and for those that do.
CUT = 200
PLENTY = 5000

#: Seconds in which the machine comes to rest after an OOM: kswapd, and what the victim leaves.
REST = 0.1


@dataclass(frozen=True)
class Handler:
    """One of the five. ``victim``: the program that runs out of memory, and its words."""

    name: str
    words: tuple[str, ...]
    victim: tuple[str, ...] = ("oom_condition_creator",)

    @property
    def command(self) -> list[str]:
        """As it is registered and as it is spawned."""
        return [program(self.words[0]), *self.words[1:]]


def five(port: int) -> list[Handler]:
    """The handlers; the server listens on ``port``."""
    shm = ("oom_condition_creator_shm", SHARED)
    return [
        Handler("nothing", ("do_nothing",)),
        Handler("write", ("write_file", str(SAVED))),
        Handler("copy", ("copy_file", str(LINES), str(SAVED))),
        Handler("ping", ("ping_server", "127.0.0.1", str(port))),
        Handler("shm", ("read_shm", SHARED, str(SAVED)), shm),
    ]


def measure(trials: int) -> dict[str, Any]:
    """All trials, in one boot."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    LINES.write_text(TEXT)
    with _server() as port, _ballast(), _kept_ready():
        handlers = five(port)
        progress = Progress((2 * len(handlers) + 1) * len(KINDS) * trials)
        with _spawners(handlers) as spawners:
            _warm_up(handlers, spawners)
            rows = [
                {"round": number, "place": place, **row}
                for number in range(trials)
                for kind in KINDS
                for handler in handlers
                for place, row in enumerate(_pair(kind, handler, spawners, number, progress))
            ]
        cuts = [_cut(kind, progress) for _ in range(trials) for kind in KINDS]
    return {"trials": rows, "cuts": cuts}


def _pair(
    kind: str, handler: Handler, spawners: Mapping[str, Clock], number: int, progress: Progress
) -> Iterator[dict[str, Any]]:
    ways: list[Callable[[], dict[str, Any]]] = [
        lambda: _under_oom(kind, handler),
        lambda: _alone(kind, handler, spawners[handler.name]),
    ]
    for way in ways if number % 2 else reversed(ways):
        yield {"kind": kind, "handler": handler.name, **way()}
        progress.step()


def _under_oom(kind: str, handler: Handler) -> dict[str, Any]:
    with _scene(kind) as scene:
        victim = _victim(scene, handler)
        register(victim.pid, *handler.command, grace_ms=PLENTY)
        _run_out(victim)
        records = {event["event"]: event for event in scene.events.all(pid=victim.pid)}
    grace, done, kill = (records.get(name) for name in ("grace", "done", "kill"))
    if not (grace and done and kill and done["exit_status"] == "0" and len(records) == 3):
        return {"way": "oom", "problem": str(records)}
    return {
        "way": "oom",
        "ns": _between(grace, done),
        "kill_ns": _between(done, kill),
    }


def _alone(kind: str, handler: Handler, spawner: Clock) -> dict[str, Any]:
    with _scene(kind) as scene:
        _run_out(_victim(scene, handler))
        time.sleep(REST)
        begun, ended, status, minor, major = spawner.ask()
    row = {"way": "alone", "ns": ended - begun, "minor": minor, "major": major}
    return row if status == 0 else {"way": "alone", "problem": f"wait status {status}"}


def _cut(kind: str, progress: Progress) -> dict[str, Any]:
    """A handler that never ends: how long after its deadline the kill comes."""
    with _scene(kind) as scene:
        victim = scene.victim("--block", "4M")
        register(victim.pid, program("never_ends"), grace_ms=CUT)
        _run_out(victim)
        records = {event["event"]: event for event in scene.events.all(pid=victim.pid)}
    progress.step()
    if not records.keys() >= {"grace", "timeout", "kill"}:
        return {"kind": kind, "problem": str(records)}
    deadline = int(records["grace"]["time_ns"]) + CUT * 1_000_000
    return {
        "kind": kind,
        "timeout_ns": int(records["timeout"]["time_ns"]) - deadline,
        "kill_ns": int(records["kill"]["time_ns"]) - deadline,
    }


def _between(first: Event, last: Event) -> int:
    return int(last["time_ns"]) - int(first["time_ns"])


@contextmanager
def _scene(kind: str) -> Iterator[Scene]:
    """A place for one OOM, in a machine that has come to rest."""
    SAVED.unlink(missing_ok=True)
    wait_until(_ready, timeout=60, why=f"not ready for the next OOM: {features()}")
    time.sleep(REST)
    events = Events()
    scene = Scene(kind, events)
    try:
        yield scene
    finally:
        scene.close()
        events.close()


def _ready() -> bool:
    """All that is set aside has been gathered again."""
    return int(features()["reserve_kb"]) >= 8 * MB // 1024


def _victim(scene: Scene, handler: Handler) -> Victim:
    """With blocks of the default size: the OOM comes in the middle of one."""
    return scene.victim(name=handler.victim[0], args=handler.victim[1:])


def _run_out(victim: Victim) -> None:
    """Until it is killed. Nothing here runs meanwhile: we are asleep in wait()."""
    victim.go()
    status = os.waitpid(victim.pid, 0)[1]
    victim.process.returncode = -os.WTERMSIG(status)
    assert os.WTERMSIG(status) == signal.SIGKILL, status


@contextmanager
def _spawners(handlers: list[Handler]) -> Iterator[dict[str, Clock]]:
    """A clock for each program, with the environment that a handler gets."""
    environment = [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/",
        f"GS_PID={os.getpid()}",
        f"GS_VICTIM_PID={os.getpid()}",
        "GS_COMM=oom_condition_c",
        "GS_UID=0",
        "GS_CONSTRAINT=memcg",
        "GS_RSS_KB=32768",
        f"GS_GRACE_MS={PLENTY}",
        "GS_DEADLINE_NS=123456789012",
        "GS_EVENT_SEQ=1234",
        "GS_MEMCG=/gs-test-1234",
    ]
    clocks = {
        handler.name: Clock("spawn_clock", *environment, *handler.command) for handler in handlers
    }
    try:
        yield clocks
    finally:
        for clock in clocks.values():
            clock.close()


def _warm_up(handlers: list[Handler], spawners: Mapping[str, Clock]) -> None:
    """Every program once in both ways; what a first time costs is not measured."""
    for handler in handlers:
        _under_oom("memcg", handler)
        _alone("memcg", handler, spawners[handler.name])


@contextmanager
def _server() -> Iterator[int]:
    process = subprocess.Popen(
        [program("accept_connections"), "0"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    word, port = process.stdout.readline().split()
    assert word == "port"
    try:
        yield int(port)
    finally:
        process.kill()
        process.wait()


@contextmanager
def _ballast() -> Iterator[None]:
    """Most of the memory is taken already, or filling it would take ten seconds each time."""
    holder = Victim((BALLAST,), name="hold_memory", adj=-1000)
    try:
        yield
    finally:
        holder.close()


@contextmanager
def _kept_ready() -> Iterator[None]:
    """Something is registered all the time, so that launchers and reserve stay."""
    register(os.getpid(), program("do_nothing"))
    try:
        yield
    finally:
        with suppress(OSError):
            register(-os.getpid())
