"""Allocations that fail on request: what a write asks for is done or not begun, no kill is lost.

Needs fault injection (the debug flavour). Two ways: the n-th allocation of one system call fails,
for every n that it has; and allocations of chosen tasks fail at random, by GS_SEED.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import (
    EVENTS,
    FEATURES,
    REGISTRY,
    SLACK_MS,
    Scene,
    Victim,
    delay_ms,
    entry_of,
    launchers,
    pid_numbers,
    program,
    register,
    registry,
    wait_until,
    write_registry,
)

FAULTS = [Path("/sys/kernel/debug", name) for name in ("failslab", "fail_page_alloc")]
FAIL_NTH = Path("/proc/self/fail-nth")
SEED = int(os.environ.get("GS_SEED", "1"))

#: What a write may say of an allocation that failed.
ALLOWED = {errno.ENOMEM, errno.EAGAIN, errno.EINTR}

#: More allocations than any system call here has.
MOST = 2000

#: Injected faults are counted down from here.
PLENTY = 1_000_000

EXE = program("do_nothing")

pytestmark = pytest.mark.skipif(
    not all(path.exists() for path in FAULTS), reason="a kernel without fault injection"
)


def set_faults(**values: object) -> None:
    """Settings of both kinds of faults; those that only one kind has are set there."""
    for path in FAULTS:
        for name, value in values.items():
            file = path / name.replace("_", "-")
            if file.exists():
                file.write_text(str(value))


@pytest.fixture(autouse=True)
def faults() -> Iterator[None]:
    """Any allocation may fail, but none does until somebody asks for it."""
    usual = {"probability": 0, "interval": 1, "times": PLENTY, "verbose": 0, "task_filter": "N"}
    every = {"ignore_gfp_wait": "N", "min_order": 0}  # not only the hasty and the large ones
    set_faults(**usual, **every)
    yield
    set_faults(**usual, ignore_gfp_wait="Y", min_order=1)


@pytest.fixture
def sleeper() -> Iterator[Victim]:
    """A process to register."""
    victim = Victim()
    yield victim
    victim.close()


# ---------------------------------------------------------------------------- each one in turn


Outcome = bytes | int | OSError


class Nth:
    """This task's own counter: the n-th allocation from now fails."""

    def __init__(self) -> None:
        self._file = os.open(FAIL_NTH, os.O_RDWR)

    def run(self, number: int, act: Callable[[], bytes | int]) -> tuple[Outcome, bool]:
        """What became of it, and whether an allocation was made to fail."""
        outcome: Outcome
        os.pwrite(self._file, b"%d\n" % number, 0)
        try:
            outcome = act()
        except OSError as error:
            outcome = error
        finally:
            left = int(os.pread(self._file, 16, 0))
            os.pwrite(self._file, b"0\n", 0)
        return outcome, left == 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def each_in_turn(
    act: Callable[[], bytes | int],
    check: Callable[[Outcome], None],
    prepare: Callable[[], object] = lambda: None,
    numbers: Iterable[int] = range(1, MOST),
) -> int:
    """Fail the first allocation of ``act``, the second, and so on; about how many there were."""
    nth = Nth()
    try:
        for number in numbers:
            prepare()
            outcome, injected = nth.run(number, act)
            if isinstance(outcome, OSError):
                assert injected, f"allocation {number} was not made to fail: {outcome}"
                assert outcome.errno in ALLOWED, f"allocation {number}: {outcome}"
            check(outcome)
            if not injected:
                return number - 1
        raise AssertionError(f"still allocating after {MOST}")
    finally:
        nth.close()


def writing(text: str) -> Callable[[], int]:
    """One open, one write, one close."""
    return lambda: write_registry(text)


def test_registering(sleeper: Victim) -> None:
    line = f"{sleeper.pid} grace_ms=700 {EXE} one two"

    def clear() -> None:
        if registry():
            write_registry(f"-{sleeper.pid}\n")

    def check(outcome: Outcome) -> None:
        assert registry() == ([] if isinstance(outcome, OSError) else [line])

    assert each_in_turn(writing(line + "\n"), check, clear) > 3


def test_getting_ready(sleeper: Victim) -> None:
    """The first registration switches everything on; failing there, it leaves it switched off.

    Only some of its allocations, since it takes ten idle seconds until all is off again.
    """
    line = f"{sleeper.pid} {EXE}"
    nth = Nth()
    refused = 0
    try:
        for number in range(1, 13):
            wait_until(lambda: launchers() == 0, timeout=60, why="launchers stay for nothing")
            outcome, _ = nth.run(number, writing(line + "\n"))
            refused += isinstance(outcome, OSError)
            assert registry() == ([] if isinstance(outcome, OSError) else [line])
            write_registry(line + "\n")
            wait_until(lambda: launchers() >= 2, timeout=30, why=f"not ready, failed {number}")
            write_registry(f"-{sleeper.pid}\n")
        assert refused > 0
    finally:
        nth.close()


def test_replacing(sleeper: Victim) -> None:
    old, new = f"{sleeper.pid} grace_ms=77 {EXE} old", f"{sleeper.pid} {EXE} new"

    def check(outcome: Outcome) -> None:
        assert registry() == [old if isinstance(outcome, OSError) else new]

    assert each_in_turn(writing(new + "\n"), check, lambda: write_registry(old + "\n")) > 3


def test_removing(sleeper: Victim) -> None:
    line = f"{sleeper.pid} {EXE} there"

    def check(outcome: Outcome) -> None:
        assert registry() == ([line] if isinstance(outcome, OSError) else [])

    text = f"-{sleeper.pid}\n"
    assert each_in_turn(writing(text), check, lambda: write_registry(line + "\n")) > 0


def test_many_commands_in_one_write(sleeper: Victim) -> None:
    """All of them or none, also where they take several pages."""
    other = Victim()
    try:
        before = [f"{sleeper.pid} {EXE} old"]
        after = [f"{other.pid} {EXE} {'x' * 300}"]
        lines = [f"-{sleeper.pid}"] + [f"{other.pid} {EXE} {n} {'x' * 300}" for n in range(20)]
        comments = ["# " + "y" * 4000] * 5
        text = "\n".join([*lines, *after, *comments]) + "\n"

        def restore() -> None:
            if entry_of(other.pid):
                write_registry(f"-{other.pid}\n")
            write_registry(before[0] + "\n")

        def check(outcome: Outcome) -> None:
            assert registry() == (before if isinstance(outcome, OSError) else after)

        assert each_in_turn(writing(text), check, restore) > 20
    finally:
        other.close()


@pytest.mark.parametrize("path", [REGISTRY, EVENTS, FEATURES], ids=lambda path: path.name)
def test_reading(sleeper: Victim, path: Path) -> None:
    """All that is there, or an error."""
    register(sleeper.pid, EXE, "x" * 3000)

    def read() -> bytes:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return os.read(file, 1 << 16)
        except BlockingIOError:
            return b""  # no record yet
        finally:
            os.close(file)

    whole = read()

    def check(outcome: Outcome) -> None:
        assert isinstance(outcome, OSError) or outcome == whole

    assert each_in_turn(read, check) > 0
    assert entry_of(sleeper.pid) is not None


def test_a_fork_and_an_exit_beside_an_entry(sleeper: Victim) -> None:
    """The probes' own way: a fork that fails leaves nothing behind."""
    register(sleeper.pid, EXE)

    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        return os.waitpid(pid, 0)[1]

    some = [*range(1, 50), *range(50, MOST, 37)]  # it has a thousand, most for page tables
    assert each_in_turn(fork, lambda _: None, numbers=some) > 10
    assert entry_of(sleeper.pid) == f"{sleeper.pid} {EXE}"


# ---------------------------------------------------------------------------- at random


@contextmanager
def failing(percent: int, pids: Iterable[int] = ()) -> Iterator[Callable[[], int]]:
    """So many of these tasks' allocations fail; gives what counts those that did."""
    # This test's own settings must not fail: nobody is marked when they are made.
    set_faults(times=PLENTY, task_filter="Y", probability=percent)
    chosen = [pid for pid in pids if mark(pid, "1")]
    try:
        yield lambda: sum(PLENTY - int((path / "times").read_text()) for path in FAULTS)
    finally:
        for pid in chosen:
            mark(pid, "0")
        set_faults(probability=0)


@contextmanager
def unlucky() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Gives what does something with this task among those whose allocations fail."""
    own = os.open("/proc/self/make-it-fail", os.O_WRONLY)

    def run(act: Callable[[], object]) -> None:
        os.pwrite(own, b"1", 0)
        try:
            act()
        finally:
            os.pwrite(own, b"0", 0)

    try:
        yield run
    finally:
        os.close(own)


def mark(pid: int, value: str) -> bool:
    """Whether the task was there to be marked."""
    try:
        Path(f"/proc/{pid}/make-it-fail").write_text(value)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


def test_any_writes_in_any_order(sleeper: Victim) -> None:
    """The registry is what the successful writes have made of it, after each of 400."""
    chance = random.Random(SEED)
    victims = [sleeper, *(Victim() for _ in range(4))]
    expected: dict[int, str] = {}
    refused = 0
    try:
        with failing(4) as injected, unlucky() as unluckily:
            for number in range(400):
                pid = chance.choice(victims).pid
                remove = chance.random() < 0.4 and pid in expected
                line = f"-{pid}" if remove else f"{pid} {EXE} {number}"
                try:
                    unluckily(writing(line + "\n"))
                except OSError as error:
                    assert error.errno in ALLOWED, f"write {number} of seed {SEED}: {error}"
                    refused += 1
                else:
                    if remove:
                        del expected[pid]
                    else:
                        expected[pid] = line
                assert sorted(registry()) == sorted(expected.values())
            assert injected() >= refused > 0
    finally:
        for victim in victims[1:]:
            victim.close()


def kernel_threads() -> set[int]:
    """kthreadd and what it started; forks of them inherit the mark, launchers too."""
    return {pid for pid in pid_numbers() if pid == 2 or parent_of(pid) == 2}


def parent_of(pid: int) -> int:
    """0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


#: How it may go when launchers are missing or fail on their way.
WAYS = (
    ["grace", "done", "kill"],
    ["grace", "timeout", "kill"],
    ["grace", "failed", "kill"],
    ["failed", "kill"],
)


def test_launchers_that_cannot_be_forked(scene: Scene) -> None:
    """Kernel threads, launchers and handlers fail at random: every victim is killed in time."""
    grace_ms = 1500
    with failing(15, kernel_threads()) as injected:
        for _ in range(8):
            victim = scene.victim("--block", "4M")
            register(victim.pid, EXE, grace_ms=grace_ms)
            end = scene.kill_of(victim)
            assert scene.events.names(victim.pid) in WAYS, scene.events.all(pid=victim.pid)
            first = scene.events.all(pid=victim.pid)[0]
            assert delay_ms(first, end) <= grace_ms + SLACK_MS
            victim.close()
        assert injected() > 0, "no allocation was made to fail"
    # Afterwards the pool fills again, by itself.
    victim = scene.victim("--block", "4M")
    register(victim.pid, EXE, grace_ms=10000)
    wait_until(lambda: launchers() >= 2, timeout=30, why="no launchers are forked any more")
    scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "done", "kill")
