"""One trial: a program as a handler under OOM, or alone; and the stage on which trials are made.

`under_oom`: a registered victim runs out of memory; the kernel's own records tell when it was
chosen, when the handler ended, when it was killed. `alone`: a victim that is not registered runs
out of memory in the same way and is killed; a moment later the program is started by posix_spawn
and waited for. So both find the same page cache: a global OOM has emptied it, and before an OOM of
a memory cgroup the program has just run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import (
    BALLAST,
    Event,
    Events,
    Scene,
    Victim,
    features,
    program,
    register,
    wait_until,
    write_registry,
)

from benchmarks.guest.machine import Clock

KINDS = ("memcg", "global")

FOLDER = Path("/var/tmp/bench")
LINES = FOLDER / "lines"
SAVED = FOLDER / "saved"
SHARED = "/gs-bench"

#: As much as oom_condition_creator_shm writes by default.
TEXT = "".join(f"line {number:08} of gs shared memory\n" for number in range(1000))

#: Milliseconds of grace.
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


@dataclass(frozen=True)
class Ran:
    """The program's process and its time, by CLOCK_BOOTTIME; ``kill_ns``: from its end to the
    kill. ``faults``: minor and major, known of a program alone."""

    pid: int
    begin_ns: int
    end_ns: int
    kill_ns: int | None = None
    faults: tuple[int, int] | None = None


#: How a trial is made: the kind of OOM, and the program.
Way = Callable[[str, Handler], Ran]


class Failed(Exception):
    """The trial did not come to its end; why."""


class Stage:
    """What stays over all trials: programs to compare with, a server, ballast, a registration."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        FOLDER.mkdir(parents=True, exist_ok=True)
        LINES.write_text(TEXT)
        port = self._stack.enter_context(_server())
        self.handlers = _five(port)
        self._clocks = {
            handler.name: Clock("spawn_clock", *_environment(), *handler.command)
            for handler in self.handlers
        }
        for clock in self._clocks.values():
            self._stack.callback(clock.close)
        self._stack.enter_context(_ballast())
        # So that launchers and reserve stay. Its score is -1000: it is never chosen.
        register(os.getpid(), program("do_nothing"))
        self._reserve = int(features()["reserve_kb"])
        for handler in self.handlers:  # what a first time costs is not measured
            self.under_oom("memcg", handler)
            self.alone("memcg", handler)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        write_registry(f"-{os.getpid()}\n")
        self._stack.close()

    def under_oom(self, kind: str, handler: Handler) -> Ran:
        """As the handler of a victim."""
        self._warm_up(kind, handler)
        records = self.records(kind, handler.command, handler.victim, PLENTY)
        grace, done, kill = (records.get(name) for name in ("grace", "done", "kill"))
        if not (grace and done and kill and done["exit_status"] == "0" and len(records) == 3):
            raise Failed(str(records))
        return Ran(
            int(grace["handler_pid"]),
            int(grace["time_ns"]),
            int(done["time_ns"]),
            kill_ns=between(done, kill),
        )

    def alone(self, kind: str, handler: Handler) -> Ran:
        """Started by posix_spawn after an OOM of that kind."""
        self._warm_up(kind, handler)
        with self._scene(kind) as scene:
            _run_out(scene.victim(name=handler.victim[0], args=handler.victim[1:]))
            time.sleep(REST)
            pid, begun, ended, status, minor, major = self._clocks[handler.name].ask()
        if status != 0:
            raise Failed(f"wait status {status}")
        return Ran(pid, begun, ended, faults=(minor, major))

    def _warm_up(self, kind: str, handler: Handler) -> None:
        """The last OOM may have been a global one. That of a memory cgroup reclaims nothing from
        others, so what the program needs is in memory, as it is on a machine that is well."""
        if kind == "memcg":
            self._clocks[handler.name].ask()

    def records(
        self, kind: str, command: Sequence[str], victim: Sequence[str], grace_ms: int
    ) -> dict[str, Event]:
        """Let a registered victim run out of memory; what the kernel says of it, by event."""
        with self._scene(kind) as scene:
            process = scene.victim(name=victim[0], args=victim[1:])
            register(process.pid, *command, grace_ms=grace_ms)
            _run_out(process)
            return {event["event"]: event for event in scene.events.all(pid=process.pid)}

    @contextmanager
    def _scene(self, kind: str) -> Iterator[Scene]:
        """A place for one OOM, in a machine that has come to rest."""
        SAVED.unlink(missing_ok=True)
        wait_until(self._ready, timeout=60, why="what is set aside was not gathered again")
        time.sleep(REST)
        events = Events()
        scene = Scene(kind, events)
        try:
            yield scene
        finally:
            scene.close()
            events.close()

    def _ready(self) -> bool:
        return int(features()["reserve_kb"]) >= self._reserve


def between(first: Event, last: Event) -> int:
    """Nanoseconds from one record to another."""
    return int(last["time_ns"]) - int(first["time_ns"])


def _five(port: int) -> list[Handler]:
    shm = ("oom_condition_creator_shm", SHARED)
    return [
        Handler("nothing", ("do_nothing",)),
        Handler("write", ("write_file", str(SAVED))),
        Handler("copy", ("copy_file", str(LINES), str(SAVED))),
        Handler("ping", ("ping_server", "127.0.0.1", str(port))),
        Handler("shm", ("read_shm", SHARED, str(SAVED)), shm),
    ]


def _environment() -> list[str]:
    """What a handler gets; the victim that it is told of is alive."""
    return [
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


def _run_out(victim: Victim) -> None:
    """Until it is killed. Nothing here runs meanwhile: we are asleep in wait()."""
    victim.go()
    status = victim.wait()
    assert status == -signal.SIGKILL, status


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
