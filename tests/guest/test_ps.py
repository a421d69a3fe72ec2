"""`gs ps` says whom the OOM killer would choose; then that OOM is made, and the kernel chooses.

Twenty scenes and a few more: sizes, oom_score_adj, nested groups, memory.oom.group, threads, page
tables, swap, the whole machine. Nothing is registered: it is the stock choice.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import MB, Group, KernelLog, Scene, Victim, alive, program, wait_until

#: What a group of these scenes may hold.
ROOM = 64 * MB

#: A program whose first thread ends while another holds the memory.
HEADLESS = """
import ctypes, os, threading, time
def hold():
    block = bytearray(b"x") * (36 << 20)
    print("pid", os.getpid(), flush=True)
    while True:
        time.sleep(1)
threading.Thread(target=hold).start()
numbers = {"x86_64": 60, "aarch64": 93}
ctypes.CDLL(None).syscall(numbers[os.uname().machine], 0)
"""

Answer = dict[str, Any]


def gs_ps(*options: str) -> Answer:
    """What the command says, as a user calls it."""
    done = subprocess.run(
        [sys.executable, "-m", "gs", "ps", "--json", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    said: Answer = json.loads(done.stdout)
    return said


def held_kb(pid: int) -> int:
    """Its memory, in swap too, and its page tables."""
    rows = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(row[1]) for row in rows if row[0] in ("VmRSS:", "VmSwap:", "VmPTE:"))


class Stage:
    """One scene: processes that hold memory, one that asks for more, and what came of it."""

    def __init__(self, scene: Scene, log: KernelLog) -> None:
        self.scene = scene
        self.log = log
        #: Number of a thread → of its process. The kernel names the thread whose memory it found.
        self.process_of: dict[int, int] = {}

    def group(self, limit: int | None = ROOM, parent: Group | None = None, swap: int = 0) -> Group:
        return self.scene.group(limit, swap, parent)

    def together(self, group: Group) -> Group:
        """Its processes are killed as one."""
        (group.path / "memory.oom.group").write_text("1")
        return group

    def hold(self, mb: int, group: Group | None, adj: int = 0, *options: str) -> Victim:
        """A process that holds so much memory when this returns."""
        words = ("--total", f"{mb}M", "--hold", *options)
        victim = self.scene.victim(*words, group=group, adj=adj)
        victim.go()
        wait_until(lambda: held_kb(victim.pid) >= mb << 10, timeout=60)
        return victim

    def ask(self, group: Group | None, adj: int = 0, mb: int = 0) -> Victim:
        """A process that takes memory when it is let: for ever, or so much."""
        words = ("--total", f"{mb}M", "--hold") if mb else ()
        return self.scene.victim(*words, group=group, adj=adj)

    def killed(self) -> list[int]:
        """Whom the kernel has killed, in its order; of a group it names the chosen twice."""
        found = (re.search(r"Killed process (\d+) ", line) for line in self.log.read())
        numbers = [int(match[1]) for match in found if match]
        return list(dict.fromkeys(self.process_of.get(number, number) for number in numbers))

    def confirm(self, asker: Victim, expected: set[int], group: Group | None = None) -> Answer:
        """`gs ps` names these, and then the kernel kills them."""
        said = gs_ps()
        name = None if group is None else group.name
        (choice,) = [one for one in said["would_be_chosen"] if one["group"] == name]
        assert choice["pid"] in expected and set(choice["killed"]) == expected, choice
        asker.go()
        wait_until(lambda: len(self.killed()) >= len(expected), timeout=120)
        first = self.killed()[: len(expected)]
        print(f"gs ps: {choice['killed']} ({choice['why']}); the kernel: {first}")
        assert set(first) == expected, (choice, self.log.read())
        event = self.scene.events.wait(event="kill", timeout=10)
        assert self.process_of.get(int(event["pid"]), int(event["pid"])) in expected
        assert event["constraint"] == ("none" if group is None else "memcg")
        return choice


@pytest.fixture
def stage(memcg: Scene, kernel_log: KernelLog) -> Iterator[Stage]:
    """Memory cgroups of its own."""
    return Stage(memcg, kernel_log)


@pytest.fixture
def whole(machine: Scene, kernel_log: KernelLog) -> Iterator[Stage]:
    """The whole machine."""
    return Stage(machine, kernel_log)


# ---------------------------------------------------------------------------- one group

Setting = Callable[[Stage], tuple[Victim, set[int], Group]]


def alone(stage: Stage) -> tuple[Victim, set[int], Group]:
    group = stage.group()
    asker = stage.ask(group)
    return asker, {asker.pid}, group


def the_larger(stage: Stage) -> tuple[Victim, set[int], Group]:
    group = stage.group()
    large, _ = stage.hold(30, group), stage.hold(10, group)
    return stage.ask(group, mb=27), {large.pid}, group


def the_smaller_for_its_adj(stage: Stage) -> tuple[Victim, set[int], Group]:
    """500 thousandths of 64 MB are 32."""
    group = stage.group()
    _, small = stage.hold(28, group), stage.hold(10, group, 500)
    return stage.ask(group, mb=30), {small.pid}, group


def too_small_an_adj(stage: Stage) -> tuple[Victim, set[int], Group]:
    """200 thousandths are 13 MB, which does not suffice."""
    group = stage.group()
    large, _ = stage.hold(30, group), stage.hold(10, group, 200)
    return stage.ask(group, mb=27), {large.pid}, group


def behind_for_its_adj(stage: Stage) -> tuple[Victim, set[int], Group]:
    group = stage.group()
    _, small = stage.hold(26, group, -500), stage.hold(18, group)
    return stage.ask(group, -100, mb=24), {small.pid}, group


def the_large_one_is_exempt(stage: Stage) -> tuple[Victim, set[int], Group]:
    group = stage.group()
    _, small = stage.hold(36, group, -1000), stage.hold(14, group)
    return stage.ask(group, -200, mb=18), {small.pid}, group


def the_last_but_one(stage: Stage) -> tuple[Victim, set[int], Group]:
    """-999 is chosen where all others are exempt."""
    group = stage.group()
    _, last = stage.hold(20, group, -1000), stage.hold(10, group, -999)
    return stage.ask(group, -1000, mb=38), {last.pid}, group


def the_asker_for_its_adj(stage: Stage) -> tuple[Victim, set[int], Group]:
    group = stage.group()
    stage.hold(40, group)
    asker = stage.ask(group, 1000)
    return asker, {asker.pid}, group


def many_threads(stage: Stage) -> tuple[Victim, set[int], Group]:
    group = stage.group()
    large, _ = stage.hold(30, group, 0, "--threads", "6"), stage.hold(16, group)
    return stage.ask(group, mb=24), {large.pid}, group


def page_tables(stage: Stage) -> tuple[Victim, set[int], Group]:
    """Of 28 MB a half are tables, so that another has more that is resident."""
    group = stage.group()
    sparse, _ = stage.hold(28, group, 0, "--shape", "sparse"), stage.hold(18, group)
    return stage.ask(group, mb=24), {sparse.pid}, group


def of_three(stage: Stage) -> tuple[Victim, set[int], Group]:
    """8 + 0.9 × 64 against 24 + 0.6 × 64 and 20 + 0.7 × 64 MB."""
    group = stage.group()
    first = stage.hold(8, group, 900)
    stage.hold(24, group, 600)
    stage.hold(20, group, 690)
    return stage.ask(group, mb=18), {first.pid}, group


# ---------------------------------------------------------------------------- groups in groups


def across_children(stage: Stage) -> tuple[Victim, set[int], Group]:
    """The limit above is about all of them."""
    above = stage.group()
    one, other = stage.group(None, above), stage.group(None, above)
    large, _ = stage.hold(30, one), stage.hold(12, other)
    return stage.ask(other, mb=26), {large.pid}, above


def the_inner_limit(stage: Stage) -> tuple[Victim, set[int], Group]:
    """Beside it a larger one, which is none of its business."""
    above = stage.group(128 * MB)
    inner, other = stage.group(32 * MB, above), stage.group(None, above)
    stage.hold(40, other)
    large = stage.hold(20, inner)
    return stage.ask(inner, mb=18), {large.pid}, inner


def the_outer_limit(stage: Stage) -> tuple[Victim, set[int], Group]:
    """adj counts by the limit that was reached: 300 thousandths of 64 MB, not of 200."""
    above = stage.group()
    one, other = stage.group(200 * MB, above), stage.group(None, above)
    large, _ = stage.hold(30, one), stage.hold(8, other, 300)
    return stage.ask(other, mb=29), {large.pid}, above


def deep_down(stage: Stage) -> tuple[Victim, set[int], Group]:
    above = stage.group()
    middle = stage.group(None, above)
    deep, side = stage.group(None, middle), stage.group(None, above)
    stage.hold(24, side)
    chosen = stage.hold(12, deep, 400)
    return stage.ask(side, mb=30), {chosen.pid}, above


# ---------------------------------------------------------------------------- memory.oom.group


def the_whole_group(stage: Stage) -> tuple[Victim, set[int], Group]:
    group = stage.together(stage.group())
    large, small = stage.hold(30, group), stage.hold(10, group)
    asker = stage.ask(group, mb=30)
    return asker, {large.pid, small.pid, asker.pid}, group


def but_the_exempt(stage: Stage) -> tuple[Victim, set[int], Group]:
    group = stage.together(stage.group())
    large, _ = stage.hold(30, group), stage.hold(10, group, -1000)
    asker = stage.ask(group, mb=30)
    return asker, {large.pid, asker.pid}, group


def the_group_of_the_chosen(stage: Stage) -> tuple[Victim, set[int], Group]:
    """The limit is above it: the others there live on."""
    above = stage.group()
    one, other = stage.together(stage.group(None, above)), stage.group(None, above)
    large, small = stage.hold(34, one), stage.hold(6, one)
    return stage.ask(other, mb=32), {large.pid, small.pid}, above


def the_highest_of_two(stage: Stage) -> tuple[Victim, set[int], Group]:
    above = stage.together(stage.group())
    one, other = stage.together(stage.group(None, above)), stage.group(None, above)
    large = stage.hold(36, one)
    asker = stage.ask(other, mb=34)
    return asker, {large.pid, asker.pid}, above


def not_beyond_the_limit(stage: Stage) -> tuple[Victim, set[int], Group]:
    """It is set above the group that is at its limit, and does not count."""
    above = stage.together(stage.group(128 * MB))
    inner = stage.group(32 * MB, above)
    large = stage.hold(20, inner)
    return stage.ask(inner, mb=18), {large.pid}, inner


IN_GROUPS: tuple[Setting, ...] = (
    *(alone, the_larger, the_smaller_for_its_adj, too_small_an_adj, behind_for_its_adj),
    *(the_large_one_is_exempt, the_last_but_one, the_asker_for_its_adj, many_threads),
    *(page_tables, of_three, across_children, the_inner_limit, the_outer_limit, deep_down),
)
AS_ONE: tuple[Setting, ...] = (
    *(the_whole_group, but_the_exempt, the_group_of_the_chosen, the_highest_of_two),
    not_beyond_the_limit,
)


@pytest.mark.parametrize("setting", IN_GROUPS, ids=lambda one: one.__name__)
def test_in_a_group(stage: Stage, setting: Setting) -> None:
    asker, expected, group = setting(stage)
    stage.confirm(asker, expected, group)


@pytest.mark.usefixtures("v2")
@pytest.mark.parametrize("setting", AS_ONE, ids=lambda one: one.__name__)
def test_as_one(stage: Stage, setting: Setting) -> None:
    asker, expected, group = setting(stage)
    stage.confirm(asker, expected, group)


def test_what_is_in_swap_counts(swap: None, stage: Stage) -> None:
    """And swap that may be used is part of what adj is a thousandth of."""
    group = stage.group(32 * MB, swap=40 * MB)
    large, _ = stage.hold(44, group), stage.hold(12, group, 200)
    said = gs_ps()
    (one,) = [one for one in said["processes"] if one["pid"] == large.pid]
    assert one["swap_kb"] > 4 << 10
    choice = stage.confirm(stage.ask(group, mb=40), {large.pid}, group)
    assert choice["total"] == 72 * MB // os.sysconf("SC_PAGESIZE")


def test_one_whose_first_thread_has_ended(stage: Stage) -> None:
    """It is a zombie to look at, and holds what it holds."""
    group = stage.group()
    process = subprocess.Popen(
        [sys.executable, "-c", HEADLESS],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: (Path("/proc/self/oom_score_adj").write_text("0"), group.add(0)),
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == f"pid {process.pid}\n".encode()
        wait_until(lambda: not alive(process.pid))
        threads = [int(path.name) for path in Path(f"/proc/{process.pid}/task").iterdir()]
        stage.process_of.update(dict.fromkeys(threads, process.pid))
        stage.confirm(stage.ask(group, mb=30), {process.pid}, group)
        assert process.wait(20) == -signal.SIGKILL
    finally:
        process.kill()
        process.stdout.close()


def test_one_between_vfork_and_exec(stage: Stage) -> None:
    """It shares the memory of its parent, which is weighed; it dies with it."""
    group = stage.group()
    parent = subprocess.Popen(
        [program("vfork_child"), "40M", "600000"],
        preexec_fn=lambda: (Path("/proc/self/oom_score_adj").write_text("0"), group.add(0)),
    )
    try:
        wait_until(lambda: len(group.pids()) == 2)
        (child,) = set(group.pids()) - {parent.pid}
        said = gs_ps()
        assert [one["exempt"] for one in said["processes"] if one["pid"] == parent.pid] == [None]
        (passed_over,) = [one["exempt"] for one in said["processes"] if one["pid"] == child]
        assert "vfork" in passed_over
        (choice,) = [one for one in said["would_be_chosen"] if one["group"] == group.name]
        assert choice["pid"] == parent.pid and set(choice["killed"]) == {parent.pid, child}
        stage.ask(group, mb=34).go()
        wait_until(lambda: stage.killed()[:1] == [parent.pid], timeout=60)
        assert parent.wait(20) == -signal.SIGKILL
        wait_until(lambda: not alive(child))
    finally:
        parent.kill()


# ---------------------------------------------------------------------------- the whole machine


def test_the_machine_takes_the_largest(whole: Stage) -> None:
    large, _ = whole.hold(48, None), whole.hold(16, None)
    whole.confirm(whole.ask(None, -800), {large.pid})


def test_the_machine_takes_the_smaller_for_its_adj(whole: Stage) -> None:
    _, small = whole.hold(48, None), whole.hold(8, None, 300)
    whole.confirm(whole.ask(None, -800), {small.pid})


def test_the_machine_takes_who_asks(whole: Stage) -> None:
    whole.hold(40, None)
    asker = whole.ask(None, 1000)
    whole.confirm(asker, {asker.pid})


def test_the_machine_takes_one_in_a_group(whole: Stage) -> None:
    """Its own limit has no part in it."""
    group = whole.group(96 * MB)
    inside, _ = whole.hold(40, group), whole.hold(24, None)
    whole.confirm(whole.ask(None, -800), {inside.pid})


@pytest.mark.usefixtures("v2")
def test_the_machine_takes_a_whole_group(whole: Stage) -> None:
    group = whole.together(whole.group(None))
    large, small = whole.hold(40, group), whole.hold(8, group)
    whole.hold(24, None)
    whole.confirm(whole.ask(None, -800), {large.pid, small.pid})


def test_whoever_asks(whole: Stage) -> None:
    """With vm.oom_kill_allocating_task nobody can be named, and so it is said."""
    setting = Path("/proc/sys/vm/oom_kill_allocating_task")
    whole.hold(48, None, 300)
    asker = whole.ask(None)
    setting.write_text("1")
    try:
        choice = gs_ps()["would_be_chosen"][0]
        assert choice["pid"] is None and "whoever asks" in choice["why"]
        asker.go()
        assert asker.wait() == -signal.SIGKILL
        assert whole.killed()[0] == asker.pid
    finally:
        setting.write_text("0")


# ---------------------------------------------------------------------------- the scores


def test_scores_are_those_of_the_kernel(stage: Stage) -> None:
    """What is worked out from the figures, and what /proc/PID/oom_score said in that moment."""
    from gs import choice, ps

    group = stage.group()
    for adj in (-999, -500, -1, 0, 1, 250, 999, 1000):
        stage.hold(4, group, adj)
    snapshot = ps.look()
    judged = [one for one in snapshot.processes if not snapshot.exempt(one)]
    assert len(judged) >= 8
    total = snapshot.settings.total
    for one in judged:
        worked_out = choice.score_of(snapshot.points(one), total, snapshot.old_scale)
        assert abs(worked_out - one.score) <= 1, one
