"""Whom a registration covers and what is done for it: signals, descendants, whole cgroups."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import (
    EARLY_MS,
    MB,
    SLACK_MS,
    SLOWER,
    Scene,
    delay_ms,
    features,
    kill,
    program,
    register,
    registry,
    sysctl,
    tmpfs_file,
    wait_for_reserve,
    wait_until,
    words_of,
    write_registry,
)
from marks import needs_fault_end

TERM = int(signal.SIGTERM)

#: Blocks so large that no victim meets its OOM in mmap(2), where no signal reaches it.
LARGE = ("--block", "64M")

#: Eight seconds, or on a slow kernel as long as a grace may be.
LONG_MS = min(int(8000 * SLOWER), 30_000)

# ---------------------------------------------------------------------------- signal=


@needs_fault_end
def test_a_signal_alone_reaches_the_thread_that_faults(scene: Scene, tmp_path: Path) -> None:
    """The victim has one thread, which stands in the very fault: it saves its state and exits."""
    saved = tmp_path / "saved"
    victim = scene.victim(*LARGE, "--save-on-term", str(saved))
    register(victim.pid, signal=TERM, grace_ms=8000)
    wait_for_reserve()  # on a busy host the victim may be faster
    victim.go()
    assert victim.wait() == 0
    scene.events.expect(victim.pid, "grace", "gone")
    grace, _ = scene.events.all(pid=victim.pid)
    assert (grace["handler"], grace["handler_pid"], grace["signal"]) == ("-", "-", "15")
    about = words_of(saved)
    assert about["signal"] == "15" and about["end"] == "1"
    assert int(about["taken"]) > 0


@needs_fault_end
def test_a_signal_reaches_one_that_needs_a_page_table(memcg: Scene, tmp_path: Path) -> None:
    """Half of what it takes are tables."""
    for number in range(6):
        saved = tmp_path / str(number)
        victim = memcg.victim("--shape", "sparse", *LARGE, "--save-on-term", str(saved))
        register(victim.pid, signal=TERM, grace_ms=8000)
        victim.go()
        assert victim.wait() == 0, number
        assert words_of(saved)["end"] == "1"


@needs_fault_end
def test_a_victim_that_saves_itself_has_the_whole_reserve(machine: Scene, tmp_path: Path) -> None:
    """Also where what it is given first does not suffice."""
    saved = tmp_path / "saved"
    victim = machine.victim(*LARGE, "--save-on-term", str(saved), "--take-on-term", "24M")
    register(victim.pid, signal=TERM, grace_ms=LONG_MS)
    with sysctl("reserve_kb", 32768):
        wait_for_reserve()
        victim.go()
        assert victim.wait() == 0
    assert words_of(saved)["end"] == "1"


@needs_fault_end
def test_a_signal_beside_a_handler(scene: Scene, tmp_path: Path) -> None:
    """Both: the handler runs, and the victim saves its state meanwhile."""
    saved, about = tmp_path / "saved", tmp_path / "about"
    victim = scene.victim(*LARGE, "--save-on-term", str(saved))
    register(victim.pid, program("write_file"), about, signal=TERM, grace_ms=8000)
    wait_for_reserve()
    victim.go()
    assert victim.wait() == 0
    grace = scene.events.wait(event="grace", pid=victim.pid)
    assert grace["signal"] == "15" and grace["handler"] == program("write_file")
    scene.events.wait(event="done", pid=victim.pid)
    assert words_of(saved)["end"] == "1" and words_of(about)["end"] == "1"
    assert not scene.events.all(event="kill")


def test_a_signal_that_is_ignored(scene: Scene) -> None:
    """It gets its grace time, and the kill at its end."""
    victim = scene.victim()
    register(victim.pid, signal=int(signal.SIGCONT), grace_ms=1200)
    end = scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "timeout", "kill")
    grace = scene.events.all(pid=victim.pid)[0]
    assert end["outcome"] == "signal" and end["handler"] == "-"
    assert 1200 - EARLY_MS <= delay_ms(grace, end) <= 1200 + SLACK_MS


def test_a_signal_does_not_reach_into_a_system_call(memcg: Scene, tmp_path: Path) -> None:
    """One thread in read(2), which cannot be tried again: it waits in place until the kill."""
    saved = tmp_path / "saved"
    victim = memcg.victim("--shape", "read", "--save-on-term", str(saved))
    register(victim.pid, signal=TERM, grace_ms=1200)
    end = memcg.kill_of(victim)
    assert end["outcome"] == "signal"
    assert not saved.exists()


def test_real_time_signals(memcg: Scene) -> None:
    """Up to the last one; its default is to end the process."""
    victim = memcg.victim()
    register(victim.pid, signal=64, grace_ms=8000)
    victim.go()
    assert victim.wait() == -64
    memcg.events.expect(victim.pid, "grace", "gone")


@needs_fault_end
def test_many_signals_take_no_handlers_place(memcg: Scene) -> None:
    """max_running is about handlers."""
    for number in range(20):
        victim = memcg.victim(*LARGE, "--save-on-term", f"/tmp/gs-signals-{number}")
        register(victim.pid, signal=TERM, grace_ms=8000)
        victim.go()
        assert victim.wait() == 0
        Path(f"/tmp/gs-signals-{number}").unlink()
    assert not memcg.events.all(event="failed")


# ---------------------------------------------------------------------------- scope=tree


@pytest.fixture
def family() -> Iterator[int]:
    """This process, whose children the victims are; it is unregistered afterwards."""
    yield os.getpid()
    if registry():
        write_registry(f"-{os.getpid()}\n")


def test_a_child_is_covered(scene: Scene, family: int, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    register(family, program("write_file"), saved, scope="tree", grace_ms=5000)
    victim = scene.victim()
    scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "done", "kill")
    about = words_of(saved)
    assert about["GS_PID"] == str(family)
    assert about["GS_VICTIM_PID"] == str(victim.pid)
    assert about["victim_alive"] == "1"


def test_a_grandchild_is_covered(memcg: Scene, family: int, tmp_path: Path) -> None:
    """As in start.sh, or `sh -c 'a | b'`."""
    saved, numbers = tmp_path / "saved", tmp_path / "numbers"
    register(family, program("write_file"), saved, scope="tree", grace_ms=5000)
    group = memcg.group()
    line = f"{program('oom_condition_creator')} --now >{numbers}; true"
    shell = os.fork()
    if shell == 0:
        group.add(0)
        Path("/proc/self/oom_score_adj").write_text("0")
        os.execv("/bin/sh", ["sh", "-c", f"({line}); true"])
    os.waitpid(shell, 0)
    pid = int(numbers.read_text().split()[1])
    memcg.events.wait(event="kill", pid=pid)
    memcg.events.expect(pid, "grace", "done", "kill")
    assert words_of(saved)["GS_VICTIM_PID"] == str(pid)


def test_a_pool_of_workers_stays_protected(memcg: Scene, family: int, tmp_path: Path) -> None:
    """The grace is spent once per victim, not once per entry."""
    for number in range(3):
        register(family, program("write_file"), tmp_path / f"saved-{number}", scope="tree")
        worker = memcg.victim()
        memcg.kill_of(worker)
        memcg.events.expect(worker.pid, "grace", "done", "kill")
    assert len(list(tmp_path.glob("saved-*"))) == 3


def test_the_nearest_entry_counts(memcg: Scene, family: int, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    register(family, program("never_ends"), scope="tree")
    victim = memcg.victim()
    register(victim.pid, program("write_file"), saved)
    end = memcg.kill_of(victim)
    memcg.events.expect(victim.pid, "grace", "done", "kill")
    assert end["handler"] == program("write_file")
    assert words_of(saved)["GS_PID"] == str(victim.pid)


def test_the_scope_of_a_process_alone(memcg: Scene, family: int) -> None:
    """Said or not, it covers no child."""
    register(family, program("do_nothing"), scope="process")
    assert registry() == [f"{family} {program('do_nothing')}"]
    victim = memcg.victim()
    memcg.kill_of(victim)
    memcg.events.expect(victim.pid, "kill")


@needs_fault_end
def test_a_signal_goes_to_the_victim(memcg: Scene, family: int, tmp_path: Path) -> None:
    """Not to the process that is registered."""
    saved = tmp_path / "saved"
    register(family, signal=TERM, scope="tree", grace_ms=8000)
    victim = memcg.victim(*LARGE, "--save-on-term", str(saved))
    victim.go()
    assert victim.wait() == 0
    assert words_of(saved)["signal"] == "15"


# ---------------------------------------------------------------------------- memory.oom.group


@pytest.mark.usefixtures("v2")
def test_a_group_has_every_members_handler(memcg: Scene, tmp_path: Path) -> None:
    """Side by side, within one deadline; who is not registered dies with them."""
    group = memcg.group()
    (group.path / "memory.oom.group").write_text("1")
    members = [memcg.victim(group=group, adj=500 if n == 0 else 0) for n in range(4)]
    register(members[0].pid, program("never_ends"), grace_ms=1500)
    register(members[1].pid, program("write_file"), tmp_path / "saved-1", grace_ms=1500)
    register(members[2].pid, program("never_ends"), grace_ms=1000)
    members[0].go()
    assert [member.wait() for member in members] == [-signal.SIGKILL] * 4
    wait_until(lambda: len(memcg.events.all(event="kill")) == 4)
    assert words_of(tmp_path / "saved-1")["GS_VICTIM_PID"] == str(members[1].pid)
    outcomes = [memcg.events.all(event="kill", pid=m.pid)[0]["outcome"] for m in members]
    assert outcomes == ["timeout", "done", "timeout", "none"]
    first = memcg.events.all(event="grace")[0]
    assert first["pid"] == str(members[0].pid)
    for event in memcg.events.all(event="kill"):
        assert event["group"] == "1"
        assert 1500 - EARLY_MS <= delay_ms(first, event) <= 1500 + SLACK_MS


@pytest.mark.usefixtures("v2")
def test_a_group_whose_chosen_one_is_not_registered(memcg: Scene, tmp_path: Path) -> None:
    group = memcg.group()
    (group.path / "memory.oom.group").write_text("1")
    chosen, member = memcg.victim(group=group, adj=500), memcg.victim(group=group)
    register(member.pid, program("write_file"), tmp_path / "saved")
    chosen.go()
    assert [chosen.wait(), member.wait()] == [-signal.SIGKILL] * 2
    memcg.events.wait(event="kill", pid=member.pid)
    memcg.events.expect(member.pid, "grace", "done", "kill")
    memcg.events.expect(chosen.pid, "kill")
    assert words_of(tmp_path / "saved")["victim_alive"] == "1"


@pytest.mark.usefixtures("v2")
@needs_fault_end
def test_a_member_that_saves_itself_leaves_the_reserve_to_a_handler(
    machine: Scene, tmp_path: Path
) -> None:
    """It gets a half at once, and not a page more while the handler runs."""
    group = machine.group(limit=None)
    (group.path / "memory.oom.group").write_text("1")
    saving = ("--save-on-term", str(tmp_path / "saved"), "--take-on-term", "40M")
    saver = machine.victim(*LARGE, *saving, group=group)
    member = machine.victim(group=group)
    register(saver.pid, signal=TERM, grace_ms=int(4000 * SLOWER))
    register(member.pid, program("never_ends"), grace_ms=int(4000 * SLOWER))
    with sysctl("reserve_kb", 32768):
        wait_for_reserve()
        saver.go()
        machine.events.wait(event="grace", pid=member.pid)
        time.sleep(2 * SLOWER)
        assert int(features()["reserve_kb"]) > 8192
        assert [saver.wait(), member.wait()] == [-signal.SIGKILL] * 2


@pytest.mark.usefixtures("v2")
def test_a_member_whose_handler_could_not_start_is_armed_again(memcg: Scene) -> None:
    """Where nobody was killed after all: another one's handler has freed memory."""
    longest_ms = int(600 * SLOWER)
    group = memcg.group()
    (group.path / "memory.oom.group").write_text("1")
    path = tmpfs_file(memcg, group, 24 * MB)
    chosen = memcg.victim("--total", "12M", "--hold", group=group, adj=500)
    member = memcg.victim(group=group)
    try:
        with sysctl("max_running", 1), sysctl("max_grace_ms", longest_ms):
            register(chosen.pid, program("free_little"), path, "12M")
            register(member.pid, program("do_nothing"))
            chosen.go()
            memcg.events.wait(event="averted", pid=chosen.pid)
            time.sleep(longest_ms / 100 + 0.1)
            write_registry(f"-{chosen.pid}\n")
            assert memcg.kill_of(member)["outcome"] == "done"
    finally:
        path.unlink()
    memcg.events.expect(member.pid, "failed", "grace", "done", "kill")


@pytest.mark.usefixtures("v2")
def test_a_member_that_leaves_is_not_waited_for(memcg: Scene, tmp_path: Path) -> None:
    """One exits in its grace while its handler hangs: the others' kill does not wait for that."""
    group = memcg.group()
    (group.path / "memory.oom.group").write_text("1")
    chosen, member = memcg.victim(group=group, adj=500), memcg.victim(group=group)
    register(chosen.pid, program("do_nothing"), grace_ms=6000)
    register(member.pid, program("never_ends"), grace_ms=6000)
    chosen.go()
    grace = memcg.events.wait(event="grace", pid=member.pid)
    kill(member.pid)
    assert chosen.wait() == -signal.SIGKILL
    end = memcg.events.wait(event="kill", pid=chosen.pid)
    assert delay_ms(grace, end) < 5000
    memcg.events.wait(event="timeout", pid=member.pid, timeout=15)
    memcg.events.expect(member.pid, "grace", "gone", "timeout")
