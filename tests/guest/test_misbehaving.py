"""Handlers that misbehave: none of them keeps the kernel from killing in time."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest
from harness import (
    EARLY_MS,
    MB,
    SLACK_MS,
    Scene,
    alive,
    delay_ms,
    kill,
    program,
    register,
    sysctl,
    wait_until,
    write_registry,
)

GRACE_MS = 1500


@pytest.mark.parametrize(
    "handler",
    [
        ("never_ends",),
        ("never_ends", "--spin"),
        ("stop_self",),
        ("ignore_signals",),
        ("fork_endless", "60"),
    ],
    ids=" ".join,
)
def test_a_handler_without_end(scene: Scene, handler: tuple[str, ...]) -> None:
    """The kill comes at the deadline, not before it and not much after, and nothing stays."""
    victim = scene.victim()
    register(victim.pid, program(handler[0]), *handler[1:], grace_ms=GRACE_MS)
    end = scene.kill_of(victim)
    if scene.kind == "global" and end["outcome"] == "failed":
        # It used up what is set aside: then the kill follows at once.
        assert handler[0] == "fork_endless"
        scene.events.expect(victim.pid, "grace", "failed", "kill")
        grace, failed, _ = scene.events.all(pid=victim.pid)
        assert int(failed["errno"]) == errno.ENOMEM
        assert delay_ms(grace, end) <= GRACE_MS + SLACK_MS
        wait_until(lambda: not processes_named(handler[0]), why="its processes are still there")
        return
    scene.events.expect(victim.pid, "grace", "timeout", "kill")
    grace, timeout, _ = scene.events.all(pid=victim.pid)
    assert end["outcome"] == "timeout"
    assert GRACE_MS - EARLY_MS <= delay_ms(grace, end) <= GRACE_MS + SLACK_MS
    assert int(timeout["elapsed_us"]) >= GRACE_MS * 1000 - 1000
    wait_until(lambda: not processes_named(handler[0]), why="its processes are still there")


def processes_named(name: str) -> list[int]:
    """Live processes that run this test program."""
    import harness

    return [pid for pid, comm in harness.processes().items() if comm == name[:15]]


def test_a_handler_that_crashes(scene: Scene) -> None:
    victim = scene.victim()
    register(victim.pid, program("crash"))
    end = scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "done", "kill")
    done = scene.events.all(pid=victim.pid, event="done")[0]
    assert os.WTERMSIG(int(done["exit_status"])) == 11
    assert end["outcome"] == "done"


def test_a_handler_that_somebody_kills(memcg: Scene) -> None:
    """Of a memory cgroup only: in a global OOM this harness may have to wait itself."""
    victim = memcg.victim()
    register(victim.pid, program("never_ends"), grace_ms=20000)
    victim.go()
    grace = memcg.events.wait(event="grace", pid=victim.pid)
    wait_until(lambda: processes_named("never_ends"))
    kill(int(grace["handler_pid"]), 9)
    end = memcg.events.wait(event="kill", pid=victim.pid, timeout=10)
    done = memcg.events.all(pid=victim.pid, event="done")[0]
    assert int(done["exit_status"]) == 9
    assert delay_ms(grace, end) < 15000
    victim.wait()


def test_a_handler_that_is_killed(scene: Scene, tmp_path: Path) -> None:
    script = tmp_path / "handler"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    victim = scene.victim()
    register(victim.pid, script, grace_ms=20000)
    end = scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "done", "kill")
    assert scene.events.all(pid=victim.pid, event="done")[0]["exit_status"] == "9"
    assert end["outcome"] == "done"


def test_a_handler_that_allocates_without_end(scene: Scene, tmp_path: Path) -> None:
    """It may get what is set aside; then the kill comes, and it is gone itself."""
    held = tmp_path / "held"
    victim = scene.victim()
    register(victim.pid, program("alloc_endless"), held, grace_ms=GRACE_MS)
    end = scene.kill_of(victim)
    names = scene.events.names(victim.pid)
    assert names[0] == "grace" and names[-1] == "kill" and "averted" not in names
    grace = scene.events.all(pid=victim.pid, event="grace")[0]
    assert delay_ms(grace, end) <= GRACE_MS + SLACK_MS
    wait_until(lambda: not processes_named("alloc_endless"))


def test_a_handler_beyond_its_bound(memcg: Scene) -> None:
    """Ten processes within their limits and beyond it together: `failed`, and the kill."""
    victim = memcg.victim()
    register(victim.pid, program("alloc_forks"), "10", "4M", grace_ms=10000)
    with sysctl("handler_max_kb", 16 * 1024):
        end = memcg.kill_of(victim)
    memcg.events.expect(victim.pid, "grace", "failed", "kill")
    grace, failed, _ = memcg.events.all(pid=victim.pid)
    assert int(failed["errno"]) == errno.ENOMEM
    assert delay_ms(grace, end) < 5000
    wait_until(lambda: not processes_named("alloc_forks"))


def test_a_handler_within_its_bound(memcg: Scene) -> None:
    victim = memcg.victim()
    register(victim.pid, program("alloc_forks"), "10", "4M", grace_ms=1500)
    with sysctl("handler_max_kb", 64 * 1024):
        memcg.kill_of(victim)
    memcg.events.expect(victim.pid, "grace", "timeout", "kill")


def test_memory_that_a_vforked_child_shares_counts_once(memcg: Scene) -> None:
    victim = memcg.victim()
    register(victim.pid, program("vfork_child"), "10M", "500", grace_ms=8000)
    with sysctl("handler_max_kb", 16 * 1024):
        memcg.kill_of(victim)
    memcg.events.expect(victim.pid, "grace", "done", "kill")


def test_a_process_of_a_handler_has_a_limit(memcg: Scene, tmp_path: Path) -> None:
    """RLIMIT_DATA: one that asks for too much is told so and goes on."""
    held = tmp_path / "held"
    victim = memcg.victim()
    register(victim.pid, program("alloc_endless"), held, grace_ms=1500)
    with sysctl("handler_max_kb", 8 * 1024):
        memcg.kill_of(victim)
    memcg.events.expect(victim.pid, "grace", "timeout", "kill")
    assert 4 * MB <= int(held.read_text()) <= 8 * MB


def test_a_daemon_that_a_handler_leaves_behind(scene: Scene, tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    victim = scene.victim()
    register(victim.pid, program("leave_daemon"), pidfile, grace_ms=10000)
    end = scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "done", "kill")
    assert end["outcome"] == "done"
    daemon = int(pidfile.read_text())
    wait_until(lambda: not alive(daemon), timeout=5, why="the daemon outlives the kill")


def test_others_go_on_during_a_memcg_grace(memcg: Scene) -> None:
    """The system answers for processes outside the domain while a handler hangs."""
    victim = memcg.victim()
    register(victim.pid, program("never_ends"), grace_ms=4000)
    victim.go()
    memcg.events.wait(event="grace", pid=victim.pid)
    slowest = 0.0
    rounds = 0
    while "timeout" not in memcg.events.names(victim.pid):
        began = time.monotonic()
        block = bytearray(4 << 20)
        block[:: 1 << 12] = b"x" * (1 << 10)
        subprocess.run(["true"], check=True)
        slowest = max(slowest, time.monotonic() - began)
        rounds += 1
    assert rounds >= 4 and slowest < 1.5
    victim.wait()


def test_gone_file(scene: Scene, tmp_path: Path) -> None:
    """A handler that was removed after it was registered: failed, never done."""
    handler = copy_of("do_nothing", tmp_path)
    victim = scene.victim()
    register(victim.pid, handler)
    handler.unlink()
    end = scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "failed", "kill")
    assert scene.events.all(pid=victim.pid, event="failed")[0]["errno"] == "2"
    assert end["outcome"] == "failed"


def test_permission_taken_away(scene: Scene, tmp_path: Path) -> None:
    handler = copy_of("do_nothing", tmp_path)
    victim = scene.victim()
    register(victim.pid, handler)
    handler.chmod(0o644)
    end = scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "failed", "kill")
    assert end["outcome"] == "failed"
    assert int(scene.events.all(pid=victim.pid, event="failed")[0]["errno"]) > 0


def test_another_file_under_its_name(scene: Scene, tmp_path: Path) -> None:
    """What was registered is the file, not the name: a file put in its place does not run."""
    handler, saved = copy_of("do_nothing", tmp_path), tmp_path / "saved"
    victim = scene.victim()
    register(victim.pid, handler, saved)
    copy_of("write_file", tmp_path, "new").rename(handler)
    end = scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "failed", "kill")
    assert end["outcome"] == "failed"
    assert not saved.exists()


def test_a_write_that_fails_accepts_no_other_file(memcg: Scene, tmp_path: Path) -> None:
    """Also where its first line alone would have."""
    handler, saved = copy_of("do_nothing", tmp_path), tmp_path / "saved"
    victim = memcg.victim()
    line = register(victim.pid, handler, saved)
    copy_of("write_file", tmp_path, "new").rename(handler)
    with pytest.raises(ProcessLookupError):
        write_registry(f"{line}\n-4194304\n")
    memcg.kill_of(victim)
    memcg.events.expect(victim.pid, "grace", "failed", "kill")
    assert not saved.exists()


def test_no_program_at_all(scene: Scene, tmp_path: Path) -> None:
    """An executable file that is no program is found out when it is to run at the latest."""
    handler = tmp_path / "handler"
    handler.write_text("this is no program\n")
    handler.chmod(0o755)
    victim = scene.victim()
    try:
        register(victim.pid, handler)
    except OSError as error:
        assert error.errno == 8  # ENOEXEC
        return
    end = scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "failed", "kill")
    assert scene.events.all(pid=victim.pid, event="failed")[0]["errno"] == "8"
    assert end["outcome"] == "failed"


def copy_of(name: str, folder: Path, new: str = "handler") -> Path:
    """A test program of one's own to spoil."""
    copy = folder / new
    copy.write_bytes(Path(program(name)).read_bytes())
    copy.chmod(0o755)
    return copy
