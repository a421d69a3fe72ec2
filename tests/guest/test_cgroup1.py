"""Memory cgroups of version 1: the same promise, and its own way to stop a process.

The other files do all they do with version 1 when GS_CGROUP=v1.
"""

from __future__ import annotations

from pathlib import Path

import cgroups
import pytest
from harness import (
    MB,
    SLACK_MS,
    Scene,
    alive,
    delay_ms,
    features,
    kill,
    program,
    register,
    wait_until,
    words_of,
)


@pytest.fixture(scope="module", autouse=True)
def version_one() -> None:
    """For good: other files need a machine of their own."""
    if not cgroups.has_v1():
        pytest.skip("this kernel has no memory cgroups of version 1")
    if cgroups.in_use() is not cgroups.V1:
        cgroups.move_to_v1()


SHAPES = {
    "touching": (),
    "threads": ("--threads", "4"),
    "in a system call": ("--shape", "read"),
}


@pytest.mark.parametrize("options", SHAPES.values(), ids=SHAPES)
def test_a_handler_runs_first(memcg: Scene, tmp_path: Path, options: tuple[str, ...]) -> None:
    """However the memory is asked for; the record has version 1's figures."""
    saved = tmp_path / "saved"
    group = memcg.group(16 * MB)
    victim = memcg.victim(*options, group=group)
    register(victim.pid, program("write_file"), saved, grace_ms=5000)
    end = memcg.kill_of(victim)
    memcg.events.expect(victim.pid, "grace", "done", "kill")
    assert words_of(saved)["victim_alive"] == "1"
    assert end["memcg"] == group.name
    assert int(end["memsw_max_kb"]) == int(end["mem_max_kb"]) == 16 << 10
    assert int(end["memsw_kb"]) >= int(end["mem_kb"]) > 12 << 10
    assert end["mem_swap_kb"] == end["mem_swap_max_kb"] == "-"
    assert group.oom_kills() == 1


def test_a_hung_handler(memcg: Scene) -> None:
    victim = memcg.victim()
    register(victim.pid, program("never_ends"), grace_ms=800)
    end = memcg.kill_of(victim)
    memcg.events.expect(victim.pid, "grace", "timeout", "kill")
    begin = memcg.events.all(event="grace")[0]
    assert 800 <= delay_ms(begin, end) <= 800 + SLACK_MS


def test_a_larger_limit_averts(memcg: Scene, tmp_path: Path) -> None:
    """The handler gives the group room: nothing is killed."""
    group = memcg.group(16 * MB)
    script = tmp_path / "enlarge.sh"
    files = [group.path / name for name in (group.version.swap, group.version.limit)]
    script.write_text("#!/bin/sh\n" + "".join(f"echo 64M >{f}\n" for f in files if f.exists()))
    script.chmod(0o755)
    victim = memcg.victim("--total", "24M", "--hold", group=group)
    register(victim.pid, script, grace_ms=8000)
    victim.go()
    memcg.events.wait(event="averted", pid=victim.pid)
    memcg.events.expect(victim.pid, "grace", "done", "averted")
    assert alive(victim.pid) and group.oom_kills() == 0


@pytest.mark.skipif(features()["wait"] != "fault-end", reason="askers wait in place here")
def test_a_handler_looks_into_its_victim(memcg: Scene, tmp_path: Path) -> None:
    """Version 1 lets a process leave its fault by itself, and ours must not meet it there."""
    saved = tmp_path / "saved"
    victim = memcg.victim("--block", "64M")
    register(victim.pid, program("look_at_victim"), saved, "smaps", "attach", grace_ms=8000)
    memcg.kill_of(victim)
    memcg.events.expect(victim.pid, "grace", "done", "kill")
    assert words_of(saved)["end"] == "1"


def is_under_oom(control: Path) -> bool:
    """Whether somebody stands still in this group, for want of memory."""
    return "under_oom 1" in control.read_text()


@pytest.mark.parametrize("who", ["room", "killer"])
def test_a_group_without_a_killer(memcg: Scene, who: str) -> None:
    """oom_kill_disable: the process stands still, without a grace, until somebody sees to it."""
    group = memcg.group(16 * MB)
    control = group.path / group.version.kills
    control.write_text("1")
    victim = memcg.victim("--block", "64M", "--total", "24M", "--hold", group=group)
    register(victim.pid, program("do_nothing"), grace_ms=5000)
    victim.go()
    wait_until(lambda: is_under_oom(control), timeout=60)
    assert not memcg.events.all(pid=victim.pid)
    if who == "room":
        for name in (group.version.swap, group.version.limit):
            if (group.path / name).exists():
                (group.path / name).write_text("64M")
        wait_until(lambda: not is_under_oom(control))
        assert not memcg.events.all(pid=victim.pid) and alive(victim.pid)
    else:
        control.write_text("0")
        memcg.events.wait(event="kill", pid=victim.pid)
        memcg.events.expect(victim.pid, "grace", "done", "kill")


def test_a_kill_by_hand_of_one_that_stands_still(memcg: Scene) -> None:
    """No grace comes between, where no OOM killer was asked."""
    group = memcg.group(16 * MB)
    control = group.path / group.version.kills
    control.write_text("1")
    victim = memcg.victim("--block", "64M", group=group)
    register(victim.pid, program("never_ends"), grace_ms=20000)
    victim.go()
    wait_until(lambda: is_under_oom(control), timeout=60)
    kill(victim.pid)
    assert victim.wait(20) == -9
    assert not memcg.events.all(pid=victim.pid)
