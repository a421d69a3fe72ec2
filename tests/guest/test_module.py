"""The module comes and goes: at any moment it is taken out, or refuses, and nothing is left.

GS_COUNT is the number of cycles of load, register, OOM, unload (default 50).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import (
    EVENTS,
    FEATURES,
    REGISTRY,
    SLOWER,
    SYSCTL,
    Events,
    Group,
    KernelLog,
    Victim,
    alive,
    features,
    launchers,
    program,
    register,
    registry,
    wait_until,
    words_of,
)

COUNT = int(os.environ.get("GS_COUNT", "50"))

#: Long enough for some attempts to take it out.
GRACE_MS = int(4000 * SLOWER)

MODULE = Path("/gs/gs_oom.ko")
LOADED = Path("/sys/module/gs_oom")

pytestmark = pytest.mark.skipif(
    features().get("attachment") != "module", reason="the core is built in"
)


def load() -> None:
    subprocess.run(["insmod", MODULE], check=True)


def unload() -> str:
    """Try once; why not, if not."""
    done = subprocess.run(["rmmod", "gs_oom"], stderr=subprocess.PIPE, check=False)
    return "" if done.returncode == 0 else done.stderr.decode()


def in_use() -> int:
    return int((LOADED / "refcnt").read_text())


@pytest.fixture(autouse=True)
def loaded_again() -> Iterator[None]:
    """Whatever the test does, the next one finds it loaded, and idle."""
    yield
    if not LOADED.exists():
        load()
    wait_until(lambda: not in_use(), timeout=30)


@pytest.fixture
def group() -> Iterator[Group]:
    group = Group()
    yield group
    group.remove()


@pytest.fixture
def victim(group: Group) -> Iterator[Victim]:
    victim = Victim(group=group)
    yield victim
    victim.close()


def killed(victim: Victim) -> None:
    assert victim.wait() == -signal.SIGKILL


def test_it_leaves_nothing(victim: Victim) -> None:
    """With somebody registered, and launchers that wait."""
    register(victim.pid, program("do_nothing"))
    wait_until(lambda: launchers() >= 16)
    assert unload() == ""
    assert not any(path.exists() for path in (LOADED, REGISTRY, EVENTS, FEATURES))
    assert not list(SYSCTL.glob("graceful_shutdown_*"))
    assert launchers() == 0
    assert alive(victim.pid)
    victim.go()
    killed(victim)


def test_a_new_one_knows_nobody(victim: Victim) -> None:
    register(victim.pid, program("do_nothing"))
    assert unload() == ""
    load()
    assert registry() == [] and features()["count_kill"] == "0"


@pytest.mark.parametrize("handler", ["never_ends", None], ids=["handler", "signal"])
def test_it_refuses_in_the_middle_of_a_grace(victim: Victim, handler: str | None) -> None:
    """The promise of a grace is kept; after the kill it goes."""
    events = Events()
    if handler:
        register(victim.pid, program(handler), grace_ms=GRACE_MS)
    else:
        register(victim.pid, signal=int(signal.SIGCONT), grace_ms=GRACE_MS)
    victim.go()
    events.wait(event="grace", pid=victim.pid)
    events.close()
    for _ in range(5):
        assert "in use" in unload()
        time.sleep(0.2)
    assert alive(victim.pid)
    killed(victim)
    wait_until(lambda: not in_use(), timeout=5)
    assert unload() == ""


def test_it_refuses_while_somebody_reads_the_events() -> None:
    events = Events()
    assert "in use" in unload()
    events.close()
    assert unload() == ""


def test_an_open_registry_does_not_hold_it(victim: Victim) -> None:
    """What is written there later finds nobody."""
    file = os.open(REGISTRY, os.O_WRONLY)
    assert unload() == ""
    with pytest.raises(OSError):
        os.write(file, f"{victim.pid} {program('do_nothing')}\n".encode())
    os.close(file)
    load()
    assert registry() == []


# ---------------------------------------------------------------------------- it refuses to load

FTRACE = Path("/proc/sys/kernel/ftrace_enabled")
SINCE_5_5 = tuple(map(int, os.uname().release.split(".")[:2])) >= (5, 5)


def test_without_ftrace_it_does_not_load(kernel_log: KernelLog) -> None:
    """And leaves nothing of a half."""
    assert unload() == ""
    FTRACE.write_text("0")
    try:
        done = subprocess.run(["insmod", MODULE], stderr=subprocess.PIPE, check=False)
        assert done.returncode != 0
    finally:
        FTRACE.write_text("1")
    assert not any(path.exists() for path in (LOADED, REGISTRY, EVENTS, FEATURES))
    said = kernel_log.matching("gs_oom: not loaded: ")
    assert len(said) == 1 and "kernel.ftrace_enabled is 0" in said[0]
    load()


@pytest.mark.skipif(not SINCE_5_5, reason="ftrace has no hooks that stay before 5.5")
def test_ftrace_cannot_be_switched_off_below_it() -> None:
    with pytest.raises(OSError):
        FTRACE.write_text("0")
    assert FTRACE.read_text() == "1\n"


def test_twice_it_does_not_load() -> None:
    done = subprocess.run(["insmod", MODULE], stderr=subprocess.PIPE, check=False)
    assert done.returncode != 0 and b"exists" in done.stderr


# ---------------------------------------------------------------------------- gs module


def gs(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["python3", "-m", "gs", "module", *words]
    return subprocess.run(command, cwd="/gs", capture_output=True, text=True, check=False)


def test_the_command_tells_where_it_stands() -> None:
    told = json.loads(gs("status", "--json").stdout)
    assert (told["loaded"], told["users"], told["attachment"]) == (True, 0, "module")
    assert gs("unload").returncode == 0
    told = json.loads(gs("status", "--json").stdout)
    assert (told["loaded"], told["attachment"]) == (False, "")
    load()


def test_the_command_waits_for_a_grace(victim: Victim) -> None:
    events = Events()
    # Long enough for the interpreter to start twice meanwhile.
    register(victim.pid, program("never_ends"), grace_ms=3 * GRACE_MS)
    victim.go()
    events.wait(event="grace", pid=victim.pid)
    events.close()
    at_once = gs("unload")
    assert at_once.returncode == 3 and "is in use" in at_once.stderr
    patient = gs("unload", "--wait", "60s")
    assert patient.returncode == 0, patient.stderr
    assert "waiting up to 60 s" in patient.stderr
    killed(victim)


# ---------------------------------------------------------------------------- again and again


def test_cycles(tmp_path: Path) -> None:
    """Load, register, OOM, unload, and again."""
    assert unload() == ""
    for number in range(COUNT):
        load()
        group, saved = Group(), tmp_path / f"saved-{number}"
        victim = Victim(("--block", "4M"), group=group)
        try:
            register(victim.pid, program("write_file"), saved)
            victim.go()
            killed(victim)
            assert words_of(saved)["victim_alive"] == "1", f"cycle {number}"
        finally:
            victim.close()
            group.remove()
        wait_until(lambda: not in_use(), timeout=5)
        assert unload() == ""
        assert launchers() == 0


def test_it_goes_and_comes_under_a_storm(kernel_log: KernelLog) -> None:
    """Every victim is killed, with its grace or without; and it went at least once meanwhile."""
    over = threading.Event()
    gone = 0

    def come_and_go() -> None:
        nonlocal gone
        while not over.is_set():
            if unload() == "":
                gone += 1
                load()

    worker = threading.Thread(target=come_and_go)
    worker.start()
    try:
        for _ in range(max(COUNT // 2, 5)):
            storm()
            kernel_log.read()  # or reports of the last ones take the place of the first
    finally:
        over.set()
        worker.join()
    assert gone > 0
    assert len(kernel_log.matching("Killed process")) >= 4 * max(COUNT // 2, 5)


def storm() -> None:
    """Four victims at once, in cgroups of their own."""
    groups = [Group() for _ in range(4)]
    victims = [Victim(("--block", "4M"), group=group) for group in groups]
    try:
        for victim in victims:
            try:
                register(victim.pid, program("do_nothing"), grace_ms=1000)
            except OSError:
                pass  # just now there is no registry
            victim.go()
        for victim in victims:
            killed(victim)
    finally:
        for victim in victims:
            victim.close()
        for group in groups:
            group.remove()
