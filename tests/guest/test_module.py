"""The module comes and goes: at any moment it is taken out, or refuses, and nothing is left.

GS_CYCLES is the number of cycles of load, register, OOM, unload (default 50); half as many as
GS_COUNT (default 50) are the storms meanwhile.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
    sysctl,
    wait_until,
    words_of,
)

CYCLES = int(os.environ.get("GS_CYCLES", "50"))
STORMS = max(int(os.environ.get("GS_COUNT", "50")) // 2, 5)

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
        refused(MODULE)
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


@dataclass(frozen=True)
class Lack:
    """What a kernel may be like, made of this one: the module looks for ``new``, not ``old``, and
    says ``says``. Only a kernel with the symbol ``needs`` can be so."""

    old: bytes
    new: bytes
    says: str
    needs: str = ""


LACKS = {
    "symbol": Lack(b"ksys_setsid", b"ksys_setsix", "this kernel has no ksys_setsix, or the"),
    "split": Lack(
        b"%s.%s.%d",
        b"%s.cold",
        "has split oom_kill_process() into oom_kill_process.cold()",
        needs="oom_kill_process.cold",
    ),
    "patched": Lack(
        b"graceful_shutdown_fault_oom", b"out_of_memory", "this kernel is patched, it needs no"
    ),
    "kprobe": Lack(
        b"kallsyms_lookup_name", b"kallsyms_lookup_namX", "no kprobe on kallsyms_lookup_name()"
    ),
    "tracepoint": Lack(
        b"sched_process_fork", b"sched_process_forX", "this kernel has no tracepoint sched_process"
    ),
}


def changed(copy: Path, old: bytes, new: bytes, count: int = 1) -> Path:
    """A copy of the module with other bytes in ``count`` places (0: wherever they are)."""
    content = MODULE.read_bytes()
    assert len(old) == len(new) and content.count(old) == (count or content.count(old)) > 0
    copy.write_bytes(content.replace(old, new))
    return copy


def refused(module: Path) -> None:
    done = subprocess.run(["insmod", module], stderr=subprocess.PIPE, check=False)
    assert done.returncode != 0


def kernel_has(symbol: str) -> bool:
    with Path("/proc/kallsyms").open(encoding="ascii") as lines:
        return any(line.split()[2] == symbol for line in lines)


@pytest.mark.parametrize("lack", LACKS.values(), ids=LACKS.keys())
def test_what_the_kernel_lacks_it_says(tmp_path: Path, kernel_log: KernelLog, lack: Lack) -> None:
    """In one line, and leaves nothing."""
    if lack.needs and not kernel_has(lack.needs):
        pytest.skip(f"this kernel has no {lack.needs}")
    assert unload() == ""
    new = lack.new.ljust(len(lack.old), b"\0")
    refused(changed(tmp_path / MODULE.name, b"\0%s\0" % lack.old, b"\0%s\0" % new))
    assert not any(path.exists() for path in (LOADED, REGISTRY, EVENTS, FEATURES))
    assert not list(SYSCTL.glob("graceful_shutdown_*"))
    said = kernel_log.matching("gs_oom: ")
    assert len(said) == 1 and said[0].startswith("gs_oom: not loaded: ") and lack.says in said[0]
    load()


def test_beside_another_that_has_changed_the_function(
    tmp_path: Path, kernel_log: KernelLog, victim: Victim
) -> None:
    """That is a second one under another name; the first does its work as before."""
    other = tmp_path / "gs_ooX.ko"
    changed(other, b"graceful_shutdown", b"graceful_shutdowX", count=0)
    other.write_bytes(other.read_bytes().replace(b"gs_oom", b"gs_ooX"))
    refused(other)
    said = kernel_log.matching("gs_ooX: not loaded: ")
    assert len(said) == 1 and "another module has changed oom_kill_process()" in said[0]
    assert not LOADED.with_name("gs_ooX").exists()
    assert not list(REGISTRY.parent.glob("graceful_shutdowX*"))
    assert not list(SYSCTL.glob("graceful_shutdowX*"))
    graced(victim, tmp_path / "saved")


def test_where_the_lock_has_no_name_it_is_found(tmp_path: Path, victim: Victim) -> None:
    """As on kernels without CONFIG_KALLSYMS_ALL."""
    if not kernel_has("mutex_lock_killable"):
        pytest.skip("this kernel has no mutex_lock_killable")
    assert unload() == ""
    copy = changed(tmp_path / MODULE.name, b"\0oom_lock\0", b"\0oom_locX\0")
    subprocess.run(["insmod", copy], check=True)
    graced(victim, tmp_path / "saved")
    wait_until(lambda: not in_use(), timeout=5)
    assert unload() == ""
    load()


def graced(victim: Victim, saved: Path) -> None:
    """It is killed, and its handler ran before."""
    register(victim.pid, program("write_file"), saved)
    victim.go()
    killed(victim)
    assert words_of(saved)["victim_alive"] == "1"


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
    longest_ms, patience = 3 * GRACE_MS, 15 * GRACE_MS // 1000
    events = Events()
    try:
        # Long enough for the interpreter to start twice meanwhile.
        with sysctl("max_grace_ms", longest_ms):
            register(victim.pid, program("never_ends"), grace_ms=longest_ms)
            victim.go()
            events.wait(event="grace", pid=victim.pid)
    finally:
        events.close()
    at_once = gs("unload")
    assert at_once.returncode == 3 and "is in use" in at_once.stderr
    patient = gs("unload", "--wait", f"{patience}s")
    assert patient.returncode == 0, patient.stderr
    assert f"waiting up to {patience} s" in patient.stderr
    killed(victim)


# ---------------------------------------------------------------------------- again and again


def test_cycles(tmp_path: Path, whole_log: KernelLog) -> None:
    """Load, register, OOM, unload, and again."""
    assert unload() == ""
    for number in range(CYCLES):
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
        whole_log.read()  # or what a thousand reports push out is never looked at


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
        for _ in range(STORMS):
            storm()
            kernel_log.read()  # or reports of the last ones take the place of the first
    finally:
        over.set()
        worker.join()
    assert gone > 0
    assert len(kernel_log.matching("Killed process")) >= 4 * STORMS


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
