"""The exporter's core on recorded streams and logs: positions, gaps, counts, kills told twice."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gs import errors
from gs.cgroup import Hierarchy
from gs.eventstream import EventStream, OomEvent
from gs.exporter import counts as counting
from gs.exporter import state
from gs.exporter.counts import Counts
from gs.exporter.figures import FIGURES, figures_of
from gs.exporter.kernellog import KernelLog, Reports
from gs.exporter.memoryevents import Accounts, kills_of_groups, kills_of_machine
from gs.exporter.merge import PATIENCE_NS, Merger
from gs.exporter.sources import GUARDS, KERNEL, LOG, Stream
from gs.paths import KernelFiles
from tests.unit.gs_support import REPO, gs, make_procfs

COMMON = "pid=7 comm=x uid=0 constraint=memcg memcg=/a.service"


def event(seq: int, name: str = "kill", words: str = "", pid: int = 7) -> OomEvent:
    common = COMMON.replace("pid=7", f"pid={pid}")
    return OomEvent.parse(f"seq={seq} time_ns={seq * 1000} event={name} {common} {words}".strip())


# ---------------------------------------------------------------------------- positions


def read(
    path: Path, lines: list[str], position: dict[str, int] | None
) -> tuple[list[int], int, dict[str, int] | None]:
    """What a stream of these lines gives: numbers, losses, and the next position."""
    path.write_text("".join(f"{line}\n" for line in lines))
    stream = Stream(
        KERNEL, EventStream(follow=False, files=KernelFiles(events=str(path))), position
    )
    try:
        return [one.seq for one in stream], stream.lost, stream.position
    finally:
        stream.close()


def ring(first: int, last: int, later: int = 0) -> list[str]:
    """What a kernel keeps; ``later``: of another stream than before."""
    return [
        f"seq={seq} time_ns={seq * 1000 + later} event=grace {COMMON}"
        for seq in range(first, last + 1)
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=12), st.integers(1, 20))
def test_each_record_counts_once_or_as_lost(
    tmp_path_factory: pytest.TempPathFactory, turns: list[tuple[int, bool]], kept: int
) -> None:
    """Whenever the exporter is started, and whatever a kernel with a ring of this size keeps."""
    path = tmp_path_factory.getbasetemp() / "ring"
    position, seen, lost, last = None, [], 0, 0
    for count, starts in [*turns, (0, True)]:
        last += count
        if starts and last:
            numbers, gone, position = read(path, ring(max(last - kept + 1, 1), last), position)
            seen += numbers
            lost += gone
    assert seen == sorted(set(seen))
    if seen:
        # What was overwritten before the first start nobody has promised to count.
        assert seen[-1] == last
        assert len(seen) + lost == last - seen[0] + 1


def test_the_kernels_word_of_a_loss(tmp_path: Path) -> None:
    """A reader that fell behind is told once; what it had counted before is not lost."""
    lost = "seq=10 time_ns=99000 event=lost count=9"
    assert read(tmp_path / "a", [*ring(1, 1), lost, *ring(11, 12)], None) == (
        [1, 11, 12], 9, {"seq": 12, "time_ns": 12000},
    )  # fmt: skip
    position = {"seq": 5, "time_ns": 5000}
    assert read(tmp_path / "b", [*ring(1, 1), lost, *ring(11, 12)], position)[:2] == ([11, 12], 5)


def test_a_stream_that_began_anew(tmp_path: Path) -> None:
    """The module was loaded again: small numbers, later times."""
    position = {"seq": 5, "time_ns": 5000}
    numbers, lost, after = read(tmp_path / "a", ring(1, 3, later=90_000), position)
    assert (numbers, lost) == ([1, 2, 3], 0)
    assert read(tmp_path / "b", ring(1, 3, later=90_000), after)[:2] == ([], 0)
    assert read(tmp_path / "c", ring(3, 4, later=90_000), position)[:2] == ([3, 4], 2)


def test_a_record_that_is_none_counts_as_lost(tmp_path: Path) -> None:
    lines = [*ring(1, 2), "nonsense", *ring(4, 4)]
    assert read(tmp_path / "a", lines, None)[:2] == ([1, 2, 4], 1)


# ---------------------------------------------------------------------------- the kernel log

#: As Linux 6.18 wrote it, of two cgroups of version 1.
SUMMARY = (
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
    "oom_memcg=/system.slice/batch.service/gs-run-249,"
    "task_memcg=/system.slice/batch.service/gs-run-249/x,task=tail,pid=27260,uid=0"
)
KILLED = (
    "Memory cgroup out of memory: Killed process 27260 (tail) total-vm:23248kB, anon-rss:20352kB, "
    "file-rss:1748kB, shmem-rss:0kB, UID:0 pgtables:80kB oom_score_adj:-5"
)


def records(path: Path, lines: list[str], first: int = 100, seq: int | None = None) -> KernelLog:
    """A recorded kernel log of these messages."""
    numbered = enumerate(lines, first)
    path.write_text("".join(f"6,{number},{number}000,-;{line}\n" for number, line in numbered))
    return KernelLog(str(path), seq)


def test_the_two_lines_of_a_kill() -> None:
    reports = Reports()
    assert reports.feed(SUMMARY) is None
    told = reports.feed(KILLED)
    assert told is not None
    assert told["memcg"] == "/system.slice/batch.service/gs-run-249/x"
    assert told["limit_memcg"] == "/system.slice/batch.service/gs-run-249"
    figures = figures_of(told)
    assert figures["rss_anon_bytes"] == 20352 * 1024 and figures["oom_score_adj"] == -5
    assert "min_flt" not in figures  # the log does not tell, and nothing is made up
    assert reports.places[27260].endswith("/x")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (KILLED, ("memcg", 0, 80)),
        (KILLED.replace("Memory cgroup out of memory", "Out of memory"), ("none", 0, 80)),
        (
            "Out of memory (oom_kill_allocating_task): Killed process 27260 (tail) "
            "total-vm:1kB, anon-rss:20352kB, file-rss:0kB, shmem-rss:0kB, UID:5 pgtables:4kB "
            "oom_score_adj:0",
            ("none", 5, 4),
        ),
        # 4.19 and before
        (
            "Killed process 27260 (tail) total-vm:1kB, anon-rss:20352kB, file-rss:0kB, "
            "shmem-rss:0kB",
            ("none", None, None),
        ),
        # 3.10
        ("Killed process 27260 (tail) total-vm:1kB, anon-rss:20352kB, file-rss:0kB",
         ("none", None, None)),
        # RHEL 7
        ("Killed process 27260 (tail), UID 996, total-vm:1kB, anon-rss:20352kB, file-rss:0kB, "
         "shmem-rss:0kB", ("none", 996, None)),
    ],
)  # fmt: skip
def test_a_kill_without_summary(line: str, wanted: tuple[str, int | None, int | None]) -> None:
    """The kernel leaves it out where there are many; older kernels have none."""
    told = Reports().feed(line)
    assert told is not None
    assert (told["constraint"], told["uid"], told["pgtables_kb"]) == wanted
    assert (told["comm"], told["anon_kb"], told["memcg"]) == ("tail", 20352, None)


RECORDED = Path(__file__).parent / "data" / "oomlogs" / "recorded"

#: Who was chosen, and those that were killed with it.
CROWD = [80, 77, 78, 79]


@pytest.mark.parametrize("cut", [0, 520, 521, 522, 523, 524, 525, 526])
def test_members_of_a_group_are_killed_with_the_chosen_one(tmp_path: Path, cut: int) -> None:
    """All are in the group, and nobody is counted twice, though the kernel kills the chosen one
    again; also by a reader that begins anew behind one of the lines."""
    whole = (RECORDED / "6.1.192-group.log").read_text().splitlines(keepends=True)[3:]
    first, path = tmp_path / "first", tmp_path / "whole"
    path.write_text("".join(whole))
    first.write_text("".join(line for line in whole if int(line.split(",")[1]) <= cut))
    before = KernelLog(str(first))
    told = list(before)
    after = KernelLog(str(path), before.seq, json.loads(json.dumps(before.state)))
    told += after
    before.close()
    after.close()
    assert [one.pid for one in told if one.event == "kill"] == CROWD
    assert [one.pid for one in told if one.event == "again"] == [80]
    places = {(one["constraint"], one["memcg"], one["limit_memcg"]) for one in told}
    assert places == {("memcg", "/gs-test-7", "/gs-test-7")}
    assert [one.get("group", 0) for one in told] == [0, 1, 1, 1, 0]
    assert after.place_of(79) == (None if cut == 526 else "/gs-test-7")


def summary_of(pid: int) -> str:
    return SUMMARY.replace("pid=27260", f"pid={pid}")


def kill_of(pid: int) -> str:
    return KILLED.replace("process 27260", f"process {pid}")


#: What the kernel says then of those below, in a group that it kills as a whole.
GROUP = "Tasks in /system.slice/batch.service are going to be killed due to memory.oom.group set"
PLACE = SUMMARY.partition("task_memcg=")[2].partition(",")[0]


def told_of(lines: list[tuple[str, float]]) -> list[tuple[object, ...]]:
    """Event, process and cgroup of what a log of these lines, with their seconds, tells."""
    reports = Reports()
    told = [reports.feed(line, int(seconds * 1e6)) for line, seconds in lines]
    return [(one["event"], one["pid"], one["memcg"]) for one in told if one is not None]


def test_a_storm_of_groups() -> None:
    """When summaries may be left out a member is not to be told from the next one that is chosen;
    and nobody is counted twice."""
    lines, wanted = [], []
    for number in range(20):
        chosen, at = 100 * (number + 1), number * 0.2
        if number < 10:
            lines.append((summary_of(chosen), at))
        members = [(kill_of(chosen + one), at) for one in (1, 2, 0)]
        lines += [(kill_of(chosen), at), (GROUP, at), *members]
        path = GROUP.split()[2] if number < 9 else None
        first = PLACE if number < 10 else None
        wanted += [("kill", chosen, first), ("kill", chosen + 1, path), ("kill", chosen + 2, path),
                   ("again", chosen, first)]  # fmt: skip
    assert told_of(lines) == wanted
    later = told_of([*lines, (summary_of(7), 60), (kill_of(7), 60), (GROUP, 60), (kill_of(8), 70)])
    assert later[-2:] == [("kill", 7, PLACE), ("kill", 8, GROUP.split()[2])]


def test_what_a_group_line_does_not_tell() -> None:
    """Without the chosen one (of a kernel without summaries, or behind a gap) members have no
    place; one that had ended meanwhile is known by its summary."""
    assert told_of([(GROUP, 0), (kill_of(8), 0)]) == [("kill", 8, None)]
    old = [(kill_of(7), 0), (GROUP, 0), (kill_of(8), 0), (kill_of(7), 0)]
    assert told_of(old) == [("kill", 7, None), ("kill", 8, None), ("again", 7, None)]
    ended = told_of([(summary_of(7), 0), (GROUP, 0), (kill_of(8), 0)])
    assert ended == [("kill", 8, GROUP.split()[2])]


def test_a_gap_is_the_end_of_a_group(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [summary_of(7), kill_of(7), GROUP, kill_of(8)]
    records(path, lines).close()
    with path.open("a") as log:
        log.write(f"6,109,109000,-;{kill_of(9)}\n")
    whole = KernelLog(str(path))
    assert [one["memcg"] for one in whole] == [PLACE, GROUP.split()[2], None]
    assert whole.gap
    whole.close()


def test_a_name_that_looks_like_a_report() -> None:
    comm = "x) total-vm:9kB"
    line = f"Out of memory: Killed process 3 ({comm}) total-vm:1kB, anon-rss:2kB, file-rss:3kB"
    told = Reports().feed(line)
    assert told is not None and told["comm"] == comm and told["total_vm_kb"] == 1


def test_only_the_kernels_own_words(tmp_path: Path) -> None:
    """Any user that may write to /dev/kmsg could say the same; its facility tells it."""
    log = records(tmp_path / "log", [SUMMARY, KILLED])
    assert len(list(log)) == 1
    log.close()
    text = (tmp_path / "log").read_text()
    (tmp_path / "log").write_text(text.replace("\n6,", "\n14,"))
    forged = KernelLog(str(tmp_path / "log"))
    assert list(forged) == []
    forged.close()


def test_positions_in_the_log(tmp_path: Path) -> None:
    with_gap = records(tmp_path / "a", [SUMMARY, KILLED], first=100, seq=98)
    without = records(tmp_path / "b", [SUMMARY, KILLED], first=100, seq=99)
    again = records(tmp_path / "c", [SUMMARY, KILLED], first=100, seq=101)
    assert [len(list(log)) for log in (with_gap, without, again)] == [1, 1, 0]
    assert [log.gap for log in (with_gap, without, again)] == [True, False, False]
    for log in (with_gap, without, again):
        log.close()


def test_what_the_kernel_escapes(tmp_path: Path) -> None:
    line = KILLED.replace("(tail)", "(\\xc3\\xa4\\x5c)")
    log = records(tmp_path / "log", [line])
    assert [one.comm for one in log] == ["ä\\"]
    log.close()


@settings(deadline=None)
@given(st.lists(st.one_of(st.text(), st.sampled_from([SUMMARY, KILLED, KILLED[:90]]))))
def test_no_log_breaks_it(lines: list[str]) -> None:
    reports = Reports()
    told = [reports.feed(line) for line in lines]
    assert sum(one is not None for one in told) >= lines.count(KILLED)


# ---------------------------------------------------------------------------- memory.events


@pytest.fixture(params=[1, 2])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Hierarchy:
    """Files of a hierarchy of either version, without any group yet."""
    top = tmp_path / "cgroup"
    top.mkdir()
    if request.param == 1:
        (top / "release_agent").write_text("")
    return Hierarchy(request.param, str(top), str(top))


def killed_in(tree: Hierarchy, path: str, count: int) -> None:
    """What the kernel says of a group then."""
    group = Path(tree.mount + path)
    group.mkdir(parents=True, exist_ok=True)
    if tree.version == 1:
        text = f"oom_kill_disable 0\nunder_oom 0\noom_kill {count}\n"
        (group / "memory.oom_control").write_text(text)
        return
    (group / "memory.events").write_text("oom 99\noom_kill 99\n")  # with those of groups below
    (group / "memory.events.local").write_text(f"low 0\noom 0\noom_kill {count}\n")


def counts_of(tree: Hierarchy) -> dict[str, int]:
    return {path: count for path, (_, count) in kills_of_groups(tree).items()}


def accounts(
    before: dict[str, tuple[int, int]], told: tuple[str | None, ...], lost: int
) -> Accounts:
    """Of whom so many were told and lost since; kept over a restart."""
    found = Accounts({"counts": before})
    for place in told:
        found.tell(place)
    found.lose(lost)
    return Accounts(json.loads(json.dumps(found.state)))


def test_the_groups_own_counts(tree: Hierarchy) -> None:
    for path, count in (("/a", 0), ("/a/b.service", 3), ("/c d", 1), ("/gs-run-7", 5)):
        killed_in(tree, path, count)
    Path(tree.mount, "no-controller").mkdir()
    assert counts_of(tree) == {"/a/b.service": 3, "/c d": 1}
    assert kills_of_groups(None) == {}


def test_groups_that_the_log_calls_otherwise_are_not_asked(tree: Hierarchy) -> None:
    """Of a namespace the top is a group like others."""
    killed_in(tree, "/a", 1)
    Path(tree.mount, "cgroup.type").write_text("domain\n")
    Path(tree.mount, "release_agent").unlink(missing_ok=True)
    assert kills_of_groups(tree) == {}


def test_the_machines_own_count(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("drop_slab 0\noom_kill 12\npgfault 3\n")
    assert kills_of_machine(str(tmp_path / "vmstat")) == 12
    (tmp_path / "vmstat").write_text("drop_slab 0\n")
    assert kills_of_machine(str(tmp_path / "vmstat")) is None


def test_what_nobody_told_was_lost_there(tree: Hierarchy) -> None:
    """Less what was told; of a group that is gone, or was there before, nothing is said."""
    for path, count in (("/a", 3), ("/b", 2), ("/gone", 1)):
        killed_in(tree, path, count)
    since = accounts(kills_of_groups(tree), told=("/a", "/new", "/gone"), lost=6)
    for path, count in (("/a", 6), ("/new", 4)):
        killed_in(tree, path, count)
    shutil.rmtree(f"{tree.mount}/gone")
    assert since.settle(kills_of_groups(tree)) == {"/a": 2, "/new": 3}
    assert since.settled
    since.lose(1)
    killed_in(tree, "/b", 3)
    assert since.settle(kills_of_groups(tree)) == {"/b": 1}


def test_a_group_of_the_same_name_begins_anew(tree: Hierarchy) -> None:
    killed_in(tree, "/a.service", 2)
    since = accounts(kills_of_groups(tree), told=(), lost=5)
    killed_in(tree, "/next", 3)
    group = Path(tree.mount, "a.service")
    group.rename(f"{tree.mount}/old")
    Path(tree.mount, "next").rename(group)
    killed_in(tree, "/old", 0)
    assert since.settle(kills_of_groups(tree)) == {"/a.service": 3}


@pytest.mark.parametrize(
    ("told", "lost", "found"),
    [
        (("/a",), 0, {}),
        ((None, None), 3, {"/a": 3}),  # the two may have been there
        ((None,) * 5, 3, {}),
        ((), 4, {}),  # more than there were: the log speaks of others
    ],
)
def test_nothing_is_made_up(told: tuple[str | None, ...], lost: int, found: dict[str, int]) -> None:
    assert accounts({"/a": (7, 1)}, told, lost).settle({"/a": (7, 6)}) == found


def test_who_may_have_been_below() -> None:
    """Three members of a group that was killed as a whole; two others were lost."""
    since = Accounts({"counts": {"/a": (7, 0), "/a/b": (8, 0), "/ab": (9, 0)}})
    for _ in range(3):
        since.tell("/a", or_below=True)
    since.lose(2)
    since = Accounts(json.loads(json.dumps(since.state)))
    assert not since.settled
    assert since.settle({"/a": (7, 1), "/a/b": (8, 2), "/ab": (9, 2)}) == {"/ab": 2}
    assert since.settled


def test_without_a_before_nothing_is_known() -> None:
    """As after an update from a version that kept none."""
    since = Accounts(None)
    since.lose(5)
    assert not since.settled and since.settle({"/a": (7, 5)}) == {}
    assert since.settled


# ---------------------------------------------------------------------------- counting


def test_results_and_durations_are_of_handlers() -> None:
    counts = Counts()
    for seq, (name, words) in enumerate(
        [
            ("grace", ""), ("done", "exit_status=0 elapsed_us=45280"),
            ("timeout", "elapsed_us=2000000"), ("kill", "outcome=done"),
            ("grace", ""), ("timeout", "elapsed_us=2000000"), ("kill", "outcome=timeout"),
            ("failed", "errno=11"), ("kill", "outcome=failed"), ("kill", "outcome=none"),
        ],
        1,
    ):  # fmt: skip
        counts.count(KERNEL, event(seq, name, words), at=0.0)
    assert counts.results == {"done": 1, "timeout": 1, "failed": 1}
    assert counts.kills == {"none": 1, "done": 1, "timeout": 1, "failed": 1, "signal": 0}
    assert counts.events["timeout", "memcg"] == 2
    assert sum(counts.durations) == 2 and counts.seconds == pytest.approx(2.04528)
    assert counts.durations[counting.BUCKETS.index(0.05)] == 1
    assert counts.of_container == {("a.service", "x"): 4}


def kill_in(counts: Counts, number: int, at: float) -> None:
    line = f"seq=1 time_ns=1 event=kill pid=1 comm=c uid=0 constraint=memcg memcg=/{number}.service"
    counts.count(KERNEL, OomEvent.parse(line), at)


def test_there_is_a_bound_to_everything() -> None:
    counts = Counts()
    for number in range(1500):
        kill_in(counts, number, at=float(number))
    kill_in(counts, 1300, at=1500.0)
    assert len(counts.last) == 200 and next(iter(counts.last)) == ("1301.service", "c")
    assert len(counts.of_container) == 1001
    assert counts.of_container[counting.OVERFLOW] == 501
    assert sum(counts.of_container.values()) == counts.kills["none"] == 1501
    counts.expire(1400.0 + 24 * 3600.5)
    assert min(kill.at for kill in counts.last.values()) >= 1400.5


def test_a_lost_kill_counts_for_its_container_alone() -> None:
    """How it came about nobody knows, and there are no figures of it."""
    counts = Counts()
    counts.count_lost_in("/system.slice/a.service", 3)
    assert counts.of_container == {("a.service", ""): 3}
    assert not counts.last and not sum(counts.kills.values()) and not sum(counts.events.values())


def test_all_of_it_outlives_a_restart() -> None:
    counts = Counts()
    for number in range(30):
        kill_in(counts, number, at=float(number))
    counts.count(KERNEL, event(1, "done", "exit_status=0 elapsed_us=5"), at=0.0)
    counts.count_lost(KERNEL, 5)
    text = json.dumps(counts.as_json())
    assert json.dumps(Counts.from_json(json.loads(text)).as_json()) == text


def test_a_process_may_call_itself_any_bytes() -> None:
    comm = os.fsdecode(b'\xff\n"')
    counts = Counts()
    counts.count(KERNEL, OomEvent({**event(1).data, "comm": comm}), at=0.0)
    ((_, name),) = counts.of_container
    assert name.encode() == '\ufffd\n"'.encode()


def test_every_name_of_container_oomkill_is_there() -> None:
    """Its README's list but for the counter."""
    names = """page_size_bytes oc_total_bytes oc_chosen_points memory_usage_bytes memory_limit_bytes
    memory_request_bytes swap_usage_bytes swap_limit_bytes swappiness rss_file_bytes rss_anon_bytes
    rss_swapents_bytes rss_shmem_bytes pgtables_bytes task_size hiwater_rss_bytes hiwater_vm_bytes
    total_vm_bytes locked_vm_bytes pinned_vm data_vm_bytes exec_vm_bytes stack_vm_bytes
    oom_score_adj num_threads min_flt maj_flt flags prio static_prio utime stime gtime start_time_ns
    start_boottime_ns uptime_ms"""
    assert names.split() == list(FIGURES)


def test_figures_of_either_version() -> None:
    one = {"mem_kb": 10, "mem_max_kb": 20, "memsw_kb": 13, "memsw_max_kb": 25, "mem_swap_kb": None}
    two = {"mem_kb": 10, "mem_max_kb": None, "mem_swap_kb": 3, "mem_swap_max_kb": None}
    assert figures_of(one)["swap_usage_bytes"] == figures_of(two)["swap_usage_bytes"] == 3 * 1024
    assert figures_of(one)["swap_limit_bytes"] == 5 * 1024
    assert not {"swap_limit_bytes", "memory_limit_bytes"} & set(figures_of(two))


# ---------------------------------------------------------------------------- told twice

RUN = OomEvent.parse(
    f"seq=1 time_ns=1 event=kill {COMMON} outcome=none".replace("a.service", "gs-run-5")
)
BY_GUARDS = OomEvent({**RUN.data, "pid": 5, "outcome": "done", "handler": "/h", "anon_kb": 1})
BY_LOG = OomEvent({**RUN.data, "pid": 905, "outcome": "none", "handler": None, "anon_kb": 2})


def test_guards_and_kernel_tell_of_one_kill() -> None:
    """In either order; what is counted has the guards' outcome and the kernel's figures."""
    merger = Merger()
    assert merger.take(LOG, BY_LOG, 0) == []
    ((source, one),) = merger.take(GUARDS, BY_GUARDS, 1)
    assert (source, one["outcome"], one["anon_kb"]) == (LOG, "done", 2)
    assert merger.overdue(PATIENCE_NS * 2) == []
    assert merger.take(GUARDS, BY_GUARDS, 3) == [(GUARDS, BY_GUARDS)]
    assert merger.take(LOG, BY_LOG, 4) == []
    assert merger.take(LOG, BY_LOG, 5) == []  # this is the next kill, which waits


def test_what_nobody_else_tells_is_not_kept_back_for_ever() -> None:
    merger = Merger()
    assert merger.take(LOG, BY_LOG, 0) == []
    merger = Merger.from_json(json.loads(json.dumps(merger.as_json())))
    assert merger.overdue(PATIENCE_NS - 1) == []
    assert merger.overdue(PATIENCE_NS) == [(LOG, BY_LOG)]
    assert merger.take(GUARDS, BY_GUARDS, PATIENCE_NS + 1) == []  # too late: it is counted


def test_other_kills_do_not_wait() -> None:
    merger = Merger()
    registered = OomEvent({**BY_LOG.data, "handler": "/h", "outcome": "done"})
    machine = OomEvent({**BY_LOG.data, "constraint": "none"})
    for one in (event(1), registered, machine, event(2, "grace")):
        assert merger.take(KERNEL, one, 0) == [(KERNEL, one)]


# ---------------------------------------------------------------------------- state and command


def test_one_exporter_at_a_time(tmp_path: Path) -> None:
    first = state.StateFile(str(tmp_path))
    with pytest.raises(errors.GsError, match="another gs-oom exporter runs"):
        state.StateFile(str(tmp_path))
    assert first.load() is None
    first.save({"a": "\udcff"})
    assert first.load() == {"version": 1, "a": "\udcff"}
    first.close()
    second = state.StateFile(str(tmp_path))
    Path(second.path).write_text("{")
    assert second.load() is None
    second.close()


def test_without_the_library_it_says_what_to_do(tmp_path: Path) -> None:
    done = gs("exporter", "--once", "--state", str(tmp_path), procfs=make_procfs(tmp_path / "proc"))
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert (
        "pip install 'gs-oom[exporter]', or apt-get install python3-prometheus-client"
        in done.stderr
    )


def test_help_teaches() -> None:
    done = gs("exporter", "--help")
    assert done.returncode == 0 and "127.0.0.1:9262" in done.stdout


# ---------------------------------------------------------------------------- the whole of it

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("prometheus_client") is None,
    reason="no prometheus_client here: pip install 'gs-oom[exporter]'",
)


class Machine:
    """The real command on recorded files of a kernel; its pids are none of this machine's."""

    def __init__(self, place: Path) -> None:
        self.events = make_procfs(place / "proc") / "graceful_shutdown_events"
        self.events.write_text("")
        self.environment = {
            **os.environ,
            "GS_PROCFS": str(place / "proc"),
            "GS_RUN_DIRECTORY": str(place / "run"),
        }
        self.words = [sys.executable, "-m", "gs", "exporter", "--state", str(place / "state")]

    def happens(self, *lines: str) -> None:
        """The kernel writes these records, each a moment after the other."""
        with self.events.open("a") as file:
            for line in lines:
                now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
                file.write(line.replace("NOW", str(now)) + "\n")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.words, *words], env=self.environment, cwd=REPO, capture_output=True, text=True
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.words, *words], env=self.environment, cwd=REPO, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


KILL = (
    "seq={} time_ns=NOW event=kill pid=999999999 comm=x uid=0 constraint=memcg "
    "memcg=/a.service handler=- outcome=none mem_max_kb=64"
)


@needs_library
def test_counts_go_on_after_a_restart(machine: Machine) -> None:
    machine.happens(*(KILL.format(seq) for seq in (1, 2)))
    first = machine.run("--once")
    assert first.returncode == 0, first.stderr
    labels = '{command="x",container_id="a.service"}'
    assert f"container_oomkills_total{labels} 2.0\n" in first.stdout
    assert f"container_oomkills_memory_limit_bytes{labels} 65536.0\n" in first.stdout
    assert machine.run("--once").stdout == first.stdout
    machine.events.write_text("")
    machine.happens(*(KILL.format(seq) for seq in (6, 7)))
    again = machine.run("--once").stdout
    assert 'gs_oom_kills_total{outcome="none"} 4.0\n' in again
    assert 'gs_events_lost_total{source="kernel"} 3.0\n' in again


@needs_library
def test_after_a_reboot_numbers_begin_anew(machine: Machine, tmp_path: Path) -> None:
    machine.happens(*(KILL.format(seq) for seq in range(1, 6)))
    machine.run("--once")
    kept = tmp_path / "state" / "exporter.json"
    kept.write_text(kept.read_text().replace(state.boot_id(), "another"))
    machine.events.write_text("")
    machine.happens(*(KILL.format(seq) for seq in (3, 4)))
    again = machine.run("--once").stdout
    assert 'gs_oom_kills_total{outcome="none"} 7.0\n' in again
    assert 'gs_events_lost_total{source="kernel"} 2.0\n' in again


@needs_library
def test_a_state_that_knows_no_groups_is_still_read(machine: Machine, tmp_path: Path) -> None:
    """It was written by the version before."""
    machine.happens(KILL.format(1))
    machine.run("--once")
    kept = tmp_path / "state" / "exporter.json"
    data = json.loads(kept.read_text())
    if data["positions"].get(LOG):
        del data["positions"][LOG]["groups"]
    kept.write_text(json.dumps(data))
    machine.happens(KILL.format(2))
    again = machine.run("--once")
    assert 'gs_oom_kills_total{outcome="none"} 2.0\n' in again.stdout, again.stderr


@needs_library
def test_a_file_for_node_exporter(machine: Machine, tmp_path: Path) -> None:
    target = tmp_path / "gs.prom"
    machine.happens(KILL.format(1))
    running = machine.start("--textfile", str(target))
    try:
        deadline = time.monotonic() + 30
        while not target.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert target.stat().st_mode & 0o777 == 0o644
        assert 'gs_oom_kills_total{outcome="none"} 1.0\n' in target.read_text()
        second = machine.run("--once")
        assert second.returncode == 1 and "another gs-oom exporter runs" in second.stderr
    finally:
        running.terminate()
        assert running.wait(20) == 0
    assert [path.name for path in tmp_path.glob("gs.prom*")] == ["gs.prom"]
    done = machine.run("--once", "--textfile", "/nowhere/gs.prom")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1) and "/nowhere" in done.stderr


@needs_library
def test_it_answers(machine: Machine) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    machine.happens(KILL.format(1))
    running = machine.start("--listen", address)
    try:
        assert running.stderr is not None
        assert running.stderr.readline() == f"gs-oom: answering http://{address}/metrics\n"
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
            assert b'gs_oom_kills_total{outcome="none"} 1.0\n' in answer.read()
        only = f"http://{address}/metrics?name[]=gs_registrations"
        with urllib.request.urlopen(only, timeout=20) as answer:
            assert answer.read().count(b"\n") == 3
        other = Machine.run(machine, "--listen", address, "--state", f"{machine.events}-state")
        assert other.returncode == 1 and f"cannot listen on {address}" in other.stderr
    finally:
        running.terminate()
        assert running.wait(20) == 0


@needs_library
@pytest.mark.parametrize(
    "words",
    [
        ("--listen", "9262"),
        ("--listen", "a:b"),
        ("--listen", ":1"),
        ("--once", "--listen", "127.0.0.1:1"),
    ],
    ids=" ".join,
)
def test_bad_usage(machine: Machine, words: tuple[str, ...]) -> None:
    done = machine.run(*words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


# ---------------------------------------------------------------------------- what it costs


@needs_library
def test_a_scrape_at_the_cap_is_quick() -> None:
    """Processor time: 200 containers with all their figures, and without. A busy neighbour on the
    same core makes all of it slower for a while: one of thirty is to be quick."""
    from prometheus_client import generate_latest

    from gs.exporter import exposition
    from gs.exporter.follow import Snapshot

    def is_within(goal: float, counts: Counts) -> bool:
        registry = exposition.registry(lambda: Snapshot(counts.copy(), {}, 0))
        for _ in range(30):
            began = time.process_time()
            generate_latest(registry)
            if time.process_time() - began <= goal:
                return True
            time.sleep(0.1)
        return False

    full = Counts()
    figures = dict.fromkeys(FIGURES, 123456789)
    for number in range(200):
        full.of_container[f"{number:012x}", "java"] = 1
        full.last[f"{number:012x}", "java"] = counting.LastKill(0.0, figures)
    assert is_within(0.1, full)
    assert is_within(0.02, Counts())
