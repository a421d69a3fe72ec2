"""Many OOMs in a row in one boot: as many files, as many kills, no splat.

GS_COUNT is their number (default 50), half of them of memory cgroups, half of the whole machine.
GS_SEED makes the random storm the same again; a failure names it.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cgroups
import pytest
from harness import (
    EVENTS,
    LIMIT,
    MB,
    SLACK_MS,
    SLOWER,
    Event,
    Events,
    Scene,
    Victim,
    features,
    parse_event,
    program,
    register,
    sysctl,
    wait_until,
    words_of,
    write_registry,
)

COUNT = int(os.environ.get("GS_COUNT", "50"))

#: In a global OOM one handler of some hundreds takes far longer than the others.
GRACE_MS = int(5000 * SLOWER)

SEED = int(os.environ.get("GS_SEED", str(random.SystemRandom().randrange(1 << 32))))


@pytest.mark.parametrize("kind", ["memcg", "global"])
def test_many_in_a_row(kind: str, tmp_path: Path) -> None:
    count = COUNT // 2
    for number in range(count):
        events = Events()
        scene = Scene(kind, events)
        saved = tmp_path / f"saved-{number}"
        try:
            victim = scene.victim("--block", "4M")
            register(victim.pid, program("write_file"), saved, grace_ms=GRACE_MS)
            scene.kill_of(victim)
            events.expect(victim.pid, "grace", "done", "kill")
            assert words_of(saved)["victim_alive"] == "1", f"OOM {number}"
        finally:
            scene.close()
            events.close()
    assert len(list(tmp_path.glob("saved-*"))) == count


# ---------------------------------------------------------------------------- at random


@dataclass(frozen=True)
class Treatment:
    """How one victim is registered, and how its grace may end."""

    words: tuple[str, ...]
    options: tuple[tuple[str, int | str], ...]
    outcomes: frozenset[str]


#: Handlers good and bad, and the outcomes that each may have. Any may find too much waiting
#: in its domain, or too many at once; in a global OOM what is set aside may be used up.
HANDLERS = [
    (("do_nothing",), {"done"}),
    (("write_file", "/tmp/gs-storm"), {"done"}),
    (("crash",), {"done"}),
    (("never_ends",), {"timeout"}),
    (("never_ends", "--spin"), {"timeout"}),
    (("stop_self",), {"timeout"}),
    (("ignore_signals",), {"timeout"}),
    (("fork_endless", "20"), {"timeout"}),
    (("alloc_forks", "3", "1M"), {"timeout"}),
    (("leave_daemon", "/tmp/gs-storm-daemon"), {"done"}),
    ((), {"signal"}),
]


def treatment(random: random.Random) -> Treatment:
    """A handler, or a signal that the victim ignores, with a grace time of 50 to 400 ms."""
    words, outcomes = random.choice(HANDLERS)
    options: list[tuple[str, int | str]] = [("grace_ms", random.randrange(50, 400))]
    if not words or random.random() < 0.2:
        options.append(("signal", int(signal.SIGCONT)))
    if random.random() < 0.2:
        options.append(("scope", "tree"))
    random.shuffle(options)
    path = [program(words[0]), *words[1:]] if words else []
    late = {"timeout"} if words else set()  # a short grace may end first on a busy machine
    return Treatment(tuple(path), tuple(options), frozenset(outcomes | late | {"failed"}))


@contextmanager
def churn(random: random.Random) -> Iterator[None]:
    """Registrations and removals that go on meanwhile, of processes that nothing happens to."""
    sleepers = [Victim(adj=-1000) for _ in range(4)]
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.005):
            pid = random.choice(sleepers).pid
            write_registry(f"{pid} {program('do_nothing')} {random.random()}\n")
            if random.random() < 0.5:
                write_registry(f"-{pid}\n")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for sleeper in sleepers:
            sleeper.close()


def others_died(events: Events, grace: Event, kill: Event) -> bool:
    """Between a grace and the kill somebody else in the domain was killed, and made room."""
    kills = events.all(event="kill", memcg=kill["memcg"])
    times = [int(e["time_ns"]) for e in kills if e["pid"] != kill["pid"]]
    return any(int(grace["time_ns"]) < time < int(kill["time_ns"]) for time in times)


def deadline(grace: Event) -> float:
    """When it ends at the latest, in milliseconds of CLOCK_BOOTTIME."""
    return int(grace["time_ns"]) / 1e6 + int(grace["grace_ms"])


def graces_of(events: Events, kill: Event, grace: Event) -> list[Event]:
    """The graces that this kill had to wait for: one, or those of its whole group."""
    return events.all(event="grace", memcg=kill["memcg"]) if kill["group"] == "1" else [grace]


def check_kill(events: Events, victim: Victim, how: Treatment) -> Event:
    """One kill, in time, and everything that led to it."""
    kill = events.wait(event="kill", pid=victim.pid, timeout=5)
    names = events.names(victim.pid)
    assert names.count("kill") == 1 and names[-1] == "kill", names
    assert kill["outcome"] in how.outcomes, f"{how}: {events.all(pid=victim.pid)}"
    graces = events.all(event="grace", pid=victim.pid)
    # Another's end may have made room, and ten grace times later there is a new one.
    assert len(graces) <= 1 + names.count("averted"), names
    if graces and not others_died(events, graces[-1], kill):
        end = max(map(deadline, graces_of(events, kill, graces[-1])))
        assert int(kill["time_ns"]) / 1e6 <= end + SLACK_MS, "\n".join(
            f"{int(e['time_ns']) // 1000000} {e['pid']} {e['event']} {e.get('grace_ms', '')}"
            f" {e.get('outcome', '')} {e.get('by_pid', '')} {e.get('gfp', '')}"
            for e in events.all(memcg=kill["memcg"])
        )
    return kill


def one_victim(scene: Scene, random: random.Random) -> int:
    """One process runs out of memory, in one of many ways."""
    victim = scene.victim(
        *random.choice([(), ("--block", "4M"), ("--threads", "4"), ("--shape", "read")])
    )
    how = treatment(random)
    register(victim.pid, *how.words, **dict(how.options))
    victim.go()
    assert victim.wait() == -signal.SIGKILL
    check_kill(scene.events, victim, how)
    return 1


def many_victims(scene: Scene, random: random.Random, most: int) -> int:
    """Up to fifty registered processes in one domain, killed one after another or as a group."""
    number = min(random.randrange(2, 51), most)
    group = scene.group(LIMIT + number * MB) if scene.kind == "memcg" else None
    if random.random() < 0.3 and group and group.version is cgroups.V2:
        (group.path / "memory.oom.group").write_text("1")
    victims = [scene.victim("--block", "256K", group=group) for _ in range(number)]
    ways = [treatment(random) for _ in victims]
    for victim, how in zip(victims, ways, strict=True):
        register(victim.pid, *how.words, **dict(how.options))
    for victim in victims:
        victim.go()
    assert [victim.wait() for victim in victims] == [-signal.SIGKILL] * number
    for victim, how in zip(victims, ways, strict=True):
        check_kill(scene.events, victim, how)
    return number


class Storm:
    """Kills of every sort, one domain after another, and the records of all of them."""

    def __init__(self) -> None:
        self.kills = 0
        self.dice = random.Random(SEED)
        self._stream = Events()
        self._next_seq = 0

    def blow(self, kills: int) -> None:
        """Until there were so many."""
        while self.kills < kills:
            try:
                self._one_domain(kills - self.kills)
                self._check_stream()
            except BaseException as error:
                error.add_note(f"GS_SEED={SEED}, after {self.kills} kills")
                raise

    def _one_domain(self, most: int) -> None:
        events = Events()
        scene = Scene("global" if self.dice.random() < 0.4 else "memcg", events)
        try:
            if self.dice.random() < 0.06:
                self.kills += many_victims(scene, self.dice, most)
            else:
                self.kills += one_victim(scene, self.dice)
        finally:
            scene.close()
            events.close()

    def _check_stream(self) -> None:
        """No record is missing, none is twice."""
        seen = [int(event["seq"]) for event in self._stream.all()]
        self._stream.seen.clear()
        first = self._next_seq or seen[0]
        self._next_seq = first + len(seen)
        assert seen == list(range(first, self._next_seq)), "not dense"


def test_a_storm() -> None:
    """Good handlers and bad, one and many, with registrations going on all the time."""
    begin = time.monotonic()
    storm = Storm()
    with sysctl("max_running", 64), churn(random.Random(SEED + 1)):
        storm.blow(COUNT)
    wait_until(lambda: features()["entries"] == "0")
    print(f"GS_SEED={SEED}: {storm.kills} kills in {time.monotonic() - begin:.0f} s")


@pytest.mark.skipif(COUNT < 1000, reason="needs GS_COUNT of 1000, to fill the ring of records")
def test_a_reader_that_fell_behind() -> None:
    """Runs after the storm: the oldest record kept is not the first, and 1,024 are there."""
    file = os.open(EVENTS, os.O_RDONLY | os.O_NONBLOCK)
    try:
        lines = os.read(file, 1 << 22).decode().splitlines()
    finally:
        os.close(file)
    assert len(lines) >= 1024
    assert int(parse_event(lines[0])["seq"]) > 1
