"""The rules of behaviour beyond one handler: averted, gone, domains, budgets, exceptions."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from harness import (
    MB,
    SLACK_MS,
    SLOWER,
    Event,
    Scene,
    alive,
    delay_ms,
    features,
    kill,
    program,
    register,
    sysctl,
    tmpfs_file,
    wait_until,
    words_of,
)

# ---------------------------------------------------------------------------- averted


def test_a_handler_that_frees_the_memory(scene: Scene) -> None:
    """`averted`: nothing is killed, and the victim goes on."""
    group = scene.group(64 * MB) if scene.kind == "memcg" else None
    helps = (64 if group else available_mb()) * 5 // 8
    helper = scene.hold(f"{helps}M", group=group, adj=0)
    left = 64 - helps if group else available_mb()
    # Too much, but not when the helper has gone, and by so much that estimates may be wrong.
    total = left + helps * 3 // 4
    victim = scene.victim("--total", f"{total}M", "--hold", group=group, adj=1000)
    register(victim.pid, program("free_memory"), str(helper.pid), grace_ms=5000)
    victim.go()
    scene.events.wait(event="done", pid=victim.pid)
    wait_until(lambda: len(scene.events.names(victim.pid)) >= 3, timeout=30)
    scene.events.expect(victim.pid, "grace", "done", "averted")
    averted = scene.events.all(event="averted", pid=victim.pid)[0]
    assert int(averted["free_kb"]) >= 1024
    assert victim.process.stdout is not None
    victim.process.stdout.readline()  # "press Enter"
    assert victim.process.stdout.readline().startswith(b"allocated ")
    assert alive(victim.pid)
    assert helper.wait() == -9
    assert not scene.events.all(event="kill")
    if group:
        assert group.oom_kills() == 0


def available_mb() -> int:
    """What the whole machine can give now."""
    words = Path("/proc/meminfo").read_text().split()
    return int(words[words.index("MemAvailable:") + 1]) // 1024


def test_a_handler_that_frees_a_little(scene: Scene) -> None:
    """100 kB are not enough: the kill follows."""
    group = scene.group() if scene.kind == "memcg" else None
    path = tmpfs_file(scene, group, 4 * MB)
    try:
        victim = scene.victim(group=group)
        register(victim.pid, program("free_little"), path, grace_ms=5000)
        end = scene.kill_of(victim)
        assert path.stat().st_size == 4 * MB - 100 * 1024
        scene.events.expect(victim.pid, "grace", "done", "kill")
        assert end["outcome"] == "done"
    finally:
        path.unlink()


def test_nobody_lives_on_averted(memcg: Scene) -> None:
    """After `averted` a new OOM within 10 x grace_ms gets no grace."""
    group = memcg.group()
    path = tmpfs_file(memcg, group, 16 * MB)
    try:
        victim = memcg.victim(group=group)
        register(victim.pid, program("free_little"), path, "4M", grace_ms=3000)
        memcg.kill_of(victim)
        memcg.events.expect(victim.pid, "grace", "done", "averted", "kill")
        assert path.stat().st_size == 12 * MB
    finally:
        path.unlink()


def test_it_is_armed_again_later(memcg: Scene) -> None:
    """Ten grace times after `averted` there is a grace again."""
    group = memcg.group()
    path = tmpfs_file(memcg, group, 8 * MB)
    memcg.hold("18M", group=group, adj=-1000)
    try:
        victim = memcg.victim("--pace-ms", str(int(1800 * SLOWER)), group=group)
        register(victim.pid, program("free_little"), path, "4M", grace_ms=int(400 * SLOWER))
        memcg.kill_of(victim)
        names = memcg.events.names(victim.pid)
        assert names[:6] == ["grace", "done", "averted"] * 2
        assert names[-1] == "kill"
    finally:
        path.unlink()


# ---------------------------------------------------------------------------- the kill that is due


def test_a_kill_that_nobody_waits_for_goes_before_anothers_grace(memcg: Scene) -> None:
    """The one that asked is stopped meanwhile; the next one to ask is somebody else."""
    group = memcg.group()
    memcg.hold("16M", group=group)  # so that much memory does not decide who is chosen
    first = memcg.victim("--block", "64M", group=group)
    second = memcg.victim("--block", "64M", group=group, adj=-1000)  # not to be chosen at once
    register(first.pid, program("never_ends"), signal=int(signal.SIGSTOP), grace_ms=1000)
    first.go()
    memcg.events.wait(event="timeout", pid=first.pid)
    set_adj(second.pid, 1000)
    register(second.pid, program("never_ends"), grace_ms=8000)
    second.go()
    end = memcg.events.wait(event="kill", timeout=4)
    assert (end["pid"], end["outcome"]) == (str(first.pid), "timeout")
    memcg.events.expect(first.pid, "grace", "timeout", "kill")


def set_adj(pid: int, value: int) -> None:
    """oom_score_adj of a process."""
    Path(f"/proc/{pid}/oom_score_adj").write_text(str(value))


# ---------------------------------------------------------------------------- the victim's own end


@pytest.mark.parametrize(("number", "status"), [(15, 0), (9, -9)], ids=["exits", "killed"])
def test_a_victim_that_is_gone(scene: Scene, number: int, status: int) -> None:
    """It exits by itself (a thread of its own sees to that), or somebody else kills it."""
    victim = scene.victim("--exit-on-term")
    register(victim.pid, program("never_ends"), grace_ms=6000)
    victim.go()
    grace = scene.events.wait(event="grace", pid=victim.pid)
    kill(victim.pid, number)
    gone = scene.events.wait(event="gone", pid=victim.pid, timeout=5)
    assert victim.wait(5) == status
    assert 0 < int(gone["elapsed_us"]) < 5_500_000
    assert delay_ms(grace, gone) < 5500
    # Its handler may still finish, until the deadline.
    wait_until(lambda: not alive(int(grace["handler_pid"])), timeout=8)
    assert not scene.events.all(event="kill")


def test_a_multi_threaded_victim(scene: Scene, tmp_path: Path) -> None:
    """Eight threads ask at once: one grace, one kill."""
    saved = tmp_path / "saved"
    victim = scene.victim("--threads", "8")
    register(victim.pid, program("write_file"), saved, grace_ms=5000)
    end = scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "done", "kill")
    assert end["outcome"] == "done" and int(end["threads"]) >= 8
    assert words_of(saved)["victim_alive"] == "1"


def test_several_askers_in_one_domain(memcg: Scene) -> None:
    """Others in the cgroup that ask during a grace wait for it and start no second one."""
    group = memcg.group()
    victim = memcg.victim(group=group, adj=1000)
    register(victim.pid, program("never_ends"), grace_ms=2000)
    others = [memcg.victim("--total", "2M", "--hold", group=group, adj=0) for _ in range(4)]
    for other in others:
        register(other.pid, program("never_ends"), grace_ms=2000)
    victim.go()
    grace = memcg.events.wait(event="grace", pid=victim.pid)
    for other in others:
        other.go()
    assert victim.wait() == -9
    end = memcg.events.wait(event="kill", pid=victim.pid, timeout=5)
    assert delay_ms(grace, end) <= 2000 + SLACK_MS
    wait_until(lambda: group.usage() > 8 * MB, why="the others do not get on")
    # The kernel takes a victim for done with before its last pages are given back: one of the
    # others may be chosen, and spared, right after the kill.
    later = [e for o in others for e in memcg.events.all(pid=o.pid)]
    assert all(int(event["seq"]) > int(end["seq"]) for event in later)
    assert "kill" not in [event["event"] for event in later]


# ---------------------------------------------------------------------------- domains and budgets


def test_two_ooms_in_two_cgroups_at_once(memcg: Scene, tmp_path: Path) -> None:
    """The second is not delayed by the first one's handler."""
    saved = tmp_path / "saved"
    first, second = memcg.victim(), memcg.victim()
    register(first.pid, program("never_ends"), grace_ms=8000)
    register(second.pid, program("write_file"), saved, grace_ms=8000)
    first.go()
    memcg.events.wait(event="grace", pid=first.pid)
    end = memcg.kill_of(second, timeout=7)
    grace = memcg.events.all(event="grace", pid=second.pid)[0]
    assert end["outcome"] == "done"
    assert delay_ms(grace, end) < 1500
    assert "timeout" not in memcg.events.names(first.pid), "the first was over already"
    assert words_of(saved)["victim_alive"] == "1"
    first.wait()


def test_too_many_at_once(memcg: Scene) -> None:
    """Beyond max_running a victim is killed at once: `failed` with EAGAIN."""
    with sysctl("max_running", 1):
        first, second = memcg.victim(), memcg.victim()
        register(first.pid, program("never_ends"), grace_ms=4000)
        register(second.pid, program("do_nothing"), grace_ms=4000)
        first.go()
        memcg.events.wait(event="grace", pid=first.pid)
        end = memcg.kill_of(second, timeout=4)
        memcg.events.expect(second.pid, "failed", "kill")
        assert memcg.events.all(pid=second.pid, event="failed")[0]["errno"] == "11"
        assert end["outcome"] == "failed"
        first.wait()


def waited_ms(events: list[Event]) -> list[tuple[float, float]]:
    """(when it ended, how long it was) of each grace, in milliseconds."""
    found = []
    for grace in (event for event in events if event["event"] == "grace"):
        over = next(
            event
            for event in events
            if event["pid"] == grace["pid"] and int(event["seq"]) > int(grace["seq"])
        )
        found.append((int(over["time_ns"]) / 1e6, delay_ms(grace, over)))
    return found


def test_fifty_victims_one_after_another(memcg: Scene) -> None:
    """However many hang, a domain waits for max_grace_ms in any minute at most."""
    bound, count = 3000, 50
    group = memcg.group(16 * MB)
    with sysctl("max_grace_ms", bound):
        for _ in range(count):
            victim = memcg.victim("--block", "4M", group=group, adj=1000)
            register(victim.pid, program("never_ends"), grace_ms=1000)
            memcg.kill_of(victim)
            victim.close()
    graces = waited_ms(memcg.events.all())
    assert len(graces) >= 3
    for end, _ in graces:
        within = [took for when, took in graces if end - 60_000 < when <= end]
        assert sum(within) <= bound + SLACK_MS
    refused = memcg.events.all(event="failed", errno="16")
    assert len(refused) + len(graces) == count
    assert len(memcg.events.all(event="kill")) == count


def test_waiting_for_others_graces_has_a_bound_too(memcg: Scene) -> None:
    """An asker waits for the graces below its domain, but no longer than its own may wait."""
    parent = memcg.group(64 * MB)
    below = memcg.victim("--block", "1M", group=memcg.group(8 * MB, parent=parent))
    asker = memcg.victim(group=memcg.group(None, parent=parent), adj=1000)
    register(below.pid, program("never_ends"), grace_ms=int(6000 * SLOWER))
    below.go()
    grace = memcg.events.wait(event="grace", pid=below.pid)
    with sysctl("max_grace_ms", 1500):
        end = memcg.kill_of(asker)
    memcg.events.expect(asker.pid, "kill")
    timeout = memcg.events.wait(event="timeout", pid=below.pid, timeout=20)
    assert delay_ms(end, timeout) > 0, "the asker waited for all of the grace"
    assert delay_ms(grace, end) >= 1500, "the asker did not wait"
    below.wait()


# ---------------------------------------------------------------------------- handlers that ask


def test_a_handler_that_reads_swapped_out_memory(swap: None, memcg: Scene, tmp_path: Path) -> None:
    """Its page faults are charged to the full cgroup: it neither joins the grace nor stops it."""
    saved = tmp_path / "saved"
    group = memcg.group(24 * MB, swap=24 * MB)
    victim = memcg.victim(group=group)
    register(victim.pid, program("read_victim_mem"), saved, grace_ms=15000)
    end = memcg.kill_of(victim)
    # 5.4 forces each charge after all of its reclaim, which may take longer than the grace.
    slow = os.uname().release.startswith("5.4.")
    cut = slow and "timeout" in memcg.events.names(victim.pid)
    memcg.events.expect(victim.pid, "grace", "timeout" if cut else "done", "kill")
    grace = memcg.events.all(event="grace", pid=victim.pid)[0]
    assert int(grace["swap_kb"]) > 8 * 1024
    assert delay_ms(grace, end) <= 15000 + SLACK_MS
    if cut:
        return
    about = {key: int(value) for key, value in words_of(saved).items()}
    assert about["swap_kb"] > 8 * 1024 and about["marked_pages"] > 100


def test_a_handler_that_needs_some_memory(scene: Scene) -> None:
    """Two megabytes when nothing is free: it gets them from what is set aside."""
    victim = scene.victim()
    register(
        victim.pid,
        program("oom_condition_creator"),
        "--now",
        "--total",
        "2M",
        "--block",
        "256K",
        grace_ms=10000,
    )
    end = scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "done", "kill")
    assert scene.events.all(event="done", pid=victim.pid)[0]["exit_status"] == "0"
    assert end["outcome"] == "done"


# ---------------------------------------------------------------------------- exceptions


def test_switched_off(scene: Scene) -> None:
    """`enabled=0`: as a stock kernel."""
    with sysctl("enabled", 0):
        victim = scene.victim()
        register(victim.pid, program("never_ends"), grace_ms=10000)
        end = scene.kill_of(victim)
        scene.events.expect(victim.pid, "kill")
        assert end["outcome"] == "none"


def test_no_grace_for_sysrq_f(scene: Scene) -> None:
    """Who asks for a kill by hand gets it at once."""
    if scene.kind == "memcg":
        pytest.skip("sysrq-f is about the whole machine")
    victim = scene.victim("--total", "20M", "--hold")
    register(victim.pid, program("never_ends"), grace_ms=10000)
    victim.go()
    assert victim.process.stdout is not None
    victim.process.stdout.readline()
    victim.process.stdout.readline()
    Path("/proc/sysrq-trigger").write_text("f")
    assert victim.wait(5) == -9
    scene.events.wait(event="kill", pid=victim.pid, timeout=5)
    scene.events.expect(victim.pid, "kill")


def test_the_task_that_asks_may_be_the_one_to_kill(scene: Scene, tmp_path: Path) -> None:
    """vm.oom_kill_allocating_task chooses in another way, and gives the same grace."""
    setting = Path("/proc/sys/vm/oom_kill_allocating_task")
    setting.write_text("1")
    try:
        victim = scene.victim()
        register(victim.pid, program("write_file"), tmp_path / "saved", grace_ms=5000)
        scene.kill_of(victim)
        scene.events.expect(victim.pid, "grace", "done", "kill")
        assert words_of(tmp_path / "saved")["victim_alive"] == "1"
    finally:
        setting.write_text("0")


@pytest.mark.usefixtures("v2")
def test_oom_group(memcg: Scene) -> None:
    """memory.oom.group: one total deadline for all of them."""
    group = memcg.group()
    (group.path / "memory.oom.group").write_text("1")
    victim = memcg.victim(group=group, adj=500)
    other = memcg.victim(group=group)
    register(victim.pid, program("never_ends"), grace_ms=1500)
    register(other.pid, program("never_ends"), grace_ms=1500)
    victim.go()
    assert victim.wait() == -9
    assert other.wait(5) == -9
    kills = [memcg.events.wait(event="kill", pid=v.pid, timeout=5) for v in (victim, other)]
    assert [event["group"] for event in kills] == ["1", "1"]
    assert int(kills[0]["points"]) > 0 and kills[1]["points"] == "-"  # it was not weighed
    first = memcg.events.all(event="grace")[0]
    assert max(delay_ms(first, event) for event in kills) <= 1500 + SLACK_MS


@pytest.mark.usefixtures("v2")
@pytest.mark.parametrize("limit", [8 * MB, 0])
def test_a_writer_of_memory_max_is_an_asker(memcg: Scene, tmp_path: Path, limit: int) -> None:
    """Also where so little is allowed that nothing could ever be enough."""
    saved = tmp_path / "saved"
    group = memcg.group()
    victim = memcg.victim("--total", "20M", "--hold", group=group)
    register(victim.pid, program("write_file"), saved, grace_ms=5000)
    victim.go()
    wait_until(lambda: group.usage() >= 20 * MB, timeout=60)
    writer = threading.Thread(target=(group.path / "memory.max").write_text, args=(str(limit),))
    writer.start()
    assert victim.wait(30) == -9
    writer.join(30)
    assert not writer.is_alive()
    memcg.events.expect(victim.pid, "grace", "done", "kill")
    assert words_of(saved)["victim_alive"] == "1"


@pytest.mark.usefixtures("v2")
def test_a_signal_ends_the_wait_of_a_writer_of_memory_max(memcg: Scene) -> None:
    group = memcg.group()
    victim = memcg.victim("--total", "20M", "--hold", group=group)
    register(victim.pid, program("never_ends"), grace_ms=8000)
    victim.go()
    wait_until(lambda: group.usage() >= 20 * MB, timeout=60)
    limit = group.path / "memory.max"
    writer = subprocess.Popen(["sh", "-c", f"echo {8 * MB} >{limit}"])
    grace = memcg.events.wait(event="grace", pid=victim.pid)
    kill(writer.pid, 9)
    began = time.monotonic()
    assert writer.wait(5) == -9
    assert time.monotonic() - began < 3
    limit.write_text("max")  # there is memory again, and nobody asks any more
    wait_until(lambda: not alive(int(grace["handler_pid"])), timeout=10)


def test_a_handler_is_no_victim_with_a_grace(memcg: Scene) -> None:
    """Nothing that a handler registers for itself gives it or its children a grace."""
    script = 'echo "$$ /gs/bin/never_ends" >/proc/graceful_shutdown; exec sleep 30'
    victim = memcg.victim()
    register(victim.pid, "/bin/sh", "-c", script.replace(" ", "\\040"), grace_ms=3000)
    memcg.kill_of(victim)
    memcg.events.expect(victim.pid, "grace", "timeout", "kill")
    assert len(memcg.events.all(event="grace")) == 1


def test_counters(memcg: Scene) -> None:
    """The features file counts what happened, and vmstat where the core is built in."""
    vmstat_counts = features()["attachment"] == "builtin"

    def counts() -> list[int]:
        about = features()
        found = [int(about["count_grace"]), int(about["count_kill"])]
        lines = Path("/proc/vmstat").read_text().splitlines()
        vmstat = dict(line.split() for line in lines)
        names = ("oom_graceful_grace", "oom_graceful_done")
        return found + [int(vmstat[name]) for name in names if vmstat_counts]

    before = counts()
    victim = memcg.victim()
    register(victim.pid, program("do_nothing"))
    memcg.kill_of(victim)
    assert [now - then for then, now in zip(before, counts())] == [1] * len(before)
