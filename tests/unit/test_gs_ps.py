"""`gs ps`: what is read of /proc and of memory cgroups, whom it names, and how it is shown.

Whether the kernel really chooses whom it names is tested in the guest (tests/guest/test_ps.py).
"""

from __future__ import annotations

import json
import os
import pty
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zipapp
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gs import _sys, choice, daemons, memgroups, proctree, ps, pstable
from gs.cgroup import Hierarchy
from gs.choice import Settings, Snapshot
from gs.errors import NotSupported, UsageError
from gs.memgroups import MemGroup
from gs.printable import printable, shell_word
from gs.proctree import PAGE, Process
from gs.registry import Registration
from tests.unit.gs_support import REPO, environment, gs, make_procfs

#: Pages of a machine of 4 GB.
TOTAL = 1 << 20
MB = 1024


# ---------------------------------------------------------------------------- what is read

#: As Linux 6.1 writes it, with the lines that matter and some between.
STATUS = """\
Name:\t{comm}
Umask:\t0022
State:\t{state} (sleeping)
Tgid:\t{pid}
Ngid:\t0
Pid:\t{pid}
PPid:\t{ppid}
TracerPid:\t0
Uid:\t0\t0\t0\t0
FDSize:\t64
Groups:\t0 
{memory}Threads:\t{threads}
SigQ:\t0/15608
SigPnd:\t0000000000000000
ShdPnd:\t{pending:016x}
SigBlk:\t0000000000000000
"""  # noqa: W291
MEMORY = """\
VmPeak:\t    9000 kB
VmSize:\t    9000 kB
VmHWM:\t    5000 kB
VmRSS:\t{rss:8} kB
RssAnon:\t     400 kB
VmPTE:\t{tables:8} kB
VmSwap:\t{swap:8} kB
HugetlbPages:\t       0 kB
"""


def record(
    proc: Path,
    pid: int,
    ppid: int = 1,
    comm: str = "work",
    adj: int = 0,
    score: int = 666,
    state: str = "S",
    threads: int = 1,
    rss: int | None = 4000,
    swap: int = 0,
    tables: int = 40,
    flags: int = 0x400000,
    start: int = 100,
    pending: int = 0,
) -> None:
    """A process in a directory that stands for /proc; ``rss`` in kB, None: it has no memory."""
    directory = proc / str(pid)
    directory.mkdir(parents=True)
    memory = "" if rss is None else MEMORY.format(rss=rss, swap=swap, tables=tables)
    text = STATUS.format(
        comm=comm.replace("\\", "\\\\").replace("\n", "\\n"),
        state=state,
        pid=pid,
        ppid=ppid,
        memory=memory,
        threads=threads,
        pending=pending,
    )
    (directory / "status").write_bytes(os.fsencode(text))
    words = [pid, f"({comm})", state, ppid, 0, 0, 0, -1, flags, *[0] * 12, start, 0, 0]
    (directory / "stat").write_bytes(os.fsencode(" ".join(map(str, words)) + "\n"))
    (directory / "oom_score").write_text(f"{score}\n")
    (directory / "oom_score_adj").write_text(f"{adj}\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine with a kernel thread and an init."""
    root = make_procfs(tmp_path / "proc")
    (root / "meminfo").write_text("MemTotal:  4194304 kB\nMemFree: 1 kB\nSwapTotal: 0 kB\n")
    record(root, 1, 0, "init", score=0)
    record(root, 2, 0, "kthreadd", score=0, rss=None, flags=0x200040)
    return root


def read(proc: Path) -> dict[int, Process]:
    return {one.pid: one for one in proctree.read(str(proc))}


def test_every_figure_of_a_process(proc: Path) -> None:
    record(proc, 7, 1, "odd) S 1\n\\ \udcff", -5, 660, "R", 3, 5000, 300, 44)
    found = read(proc)
    assert found[7] == Process(7, 1, "odd) S 1\n\\ \udcff", "R", 3, 660, -5, 5000, 300, 44)
    assert found[7].weight == (5000 + 300 + 44) * 1024 // PAGE
    assert found[2].is_kernel_thread and not found[2].has_memory
    assert not found[1].is_kernel_thread


def test_one_that_is_being_killed_and_one_that_has_ended(proc: Path) -> None:
    record(proc, 7, pending=1 << (signal.SIGKILL - 1))
    record(proc, 8, state="Z", rss=None, score=0)
    record(proc, 9, state="R", rss=None, score=0, flags=0x400004)
    record(proc, 10, 2, "gs_launcher", rss=None, score=0)
    found = read(proc)
    assert not found[9].is_kernel_thread and found[10].is_kernel_thread
    assert found[7].is_dying and not found[1].is_dying
    assert not found[8].has_memory and not found[8].is_kernel_thread


def test_one_whose_first_thread_has_ended(proc: Path) -> None:
    record(proc, 7, state="Z", rss=None, threads=2, score=700)
    record(proc / "7/task", 7, state="Z", rss=None, threads=2)
    record(proc / "7/task", 9, rss=80000, threads=2)
    found = read(proc)[7]
    assert (found.has_memory, found.rss_kb, found.score) == (True, 80000, 700)


def test_what_vanishes_meanwhile_is_left_out(proc: Path) -> None:
    for pid, name in ((7, "status"), (8, "oom_score"), (9, "oom_score_adj")):
        record(proc, pid)
        (proc / str(pid) / name).unlink()
    record(proc, 10, rss=None)
    (proc / "10/stat").unlink()
    record(proc, 11)
    (proc / "11/status").write_text("")
    assert sorted(read(proc)) == [1, 2]


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_status_stops_the_reading(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        proc = Path(directory)
        record(proc, 7)
        (proc / "7/status").write_bytes(b"Name:\tx\n" + data)
        proctree.read(directory)


@given(st.text(max_size=15).filter(lambda name: "\0" not in name))
@example("a\\nb")
@example("\\")
def test_any_name(name: str) -> None:
    written = os.fsencode(name.replace("\\", "\\\\").replace("\n", "\\n"))
    assert proctree._unescaped(written) == name


def test_real_processes_that_come_and_go() -> None:
    """A thousand that live for moments, and none of them ends the reading."""
    script = "i=0; while [ $i -lt 300 ]; do (:) & i=$((i+1)); done; wait"
    with subprocess.Popen(["sh", "-c", script]) as shell:
        readings = 0
        while shell.poll() is None:
            found = proctree.read()
            assert os.getpid() in {one.pid for one in found}
            readings += 1
    assert readings > 1


def test_scores_are_those_that_the_kernel_shows() -> None:
    """What is worked out from rss, swap, page tables and adj, against /proc/PID/oom_score; of
    processes that stand still, read twice."""
    holders = []
    for adj in (0, 300, 1000):
        code = f"open('/proc/self/oom_score_adj', 'w').write('{adj}'); b = b'x' * (8 << 20)"
        code = f"import time; {code}; print(flush=True); time.sleep(60)"
        words = [sys.executable, "-S", "-c", code]
        holders.append(subprocess.Popen(words, stdout=subprocess.PIPE))
    try:
        for one in holders:
            assert one.stdout is not None
            assert one.stdout.readline() == b"\n"
        own = {one.pid for one in holders}
        for _ in range(50):  # they have a few more pages to touch before they sleep
            before, snapshot = read(Path("/proc")), ps.look()
            known = {(one.pid, one.weight, one.score) for one in before.values()}
            still = [one for one in snapshot.processes if (one.pid, one.weight, one.score) in known]
            judged = [one for one in still if not snapshot.exempt(one)]
            if own <= {one.pid for one in judged}:
                break
            time.sleep(0.1)
        assert own <= {one.pid for one in judged}
        total = snapshot.settings.total
        # From 6.2 on the kernel weighs with counters that are off by a batch for each processor.
        blur = 4 * 32 * (os.cpu_count() or 1) * 1000 // total + 1
        for process in judged:
            points = snapshot.points(process)
            worked_out = choice.score_of(points, total, snapshot.old_scale)
            assert abs(worked_out - process.score) <= blur, process
    finally:
        for holding in holders:
            holding.kill()
            holding.communicate()


# ---------------------------------------------------------------------------- the tree


def test_the_tree() -> None:
    processes = [Process(pid, ppid, "x") for pid, ppid in ((1, 0), (5, 1), (3, 5), (4, 1), (9, 77))]
    order = [(depth, one.pid) for depth, one in proctree.in_order(processes)]
    assert order == [(0, 1), (1, 5), (2, 3), (1, 4), (0, 9)]


# ---------------------------------------------------------------------------- memory cgroups


def make_group(path: Path, pids: str = "", **files: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "cgroup.procs").write_text(pids)
    for name, text in files.items():
        (path / name.replace("__", ".")).write_text(text + "\n")


def test_groups_of_version_2(tmp_path: Path) -> None:
    limit = 64 * MB * 1024
    inner = tmp_path / "a/b"
    make_group(tmp_path, "1\n")
    make_group(tmp_path / "empty")
    make_group(
        tmp_path / "a", memory__max=str(limit), memory__swap__max="8192", memory__oom__group="1"
    )
    make_group(inner, "7\n8\n", memory__max="max", memory__current="5000", memory__oom__group="0")
    groups = memgroups.read(Hierarchy(2, str(tmp_path), ""), 100)
    assert sorted(groups) == ["/", "/a", "/a/b"]
    assert groups["/a/b"].pids == (7, 8) and groups["/a/b"].usage == 5000
    assert (groups["/a"].limit, groups["/a/b"].limit) == (limit, None)
    assert (groups["/a"].kills_all, groups["/a/b"].kills_all) == (True, False)
    swappiness = Path("/proc/sys/vm/swappiness").read_text() != "0\n"
    assert groups["/a"].total == limit // PAGE + (8192 // PAGE if swappiness else 0)


def test_groups_of_version_1(tmp_path: Path) -> None:
    limit = 64 * MB * 1024
    base = {"memory__swappiness": "60", "memory__use_hierarchy": "1"}
    control = "oom_kill_disable 1\nunder_oom 0\noom_kill 0"
    make_group(tmp_path, "1\n", memory__limit_in_bytes="9223372036854771712")
    make_group(tmp_path / "a", "7\n", memory__limit_in_bytes=str(limit), **base)
    (tmp_path / "a/memory.memsw.limit_in_bytes").write_text(f"{limit + 4 * PAGE}\n")
    make_group(
        tmp_path / "b", "8\n", memory__limit_in_bytes=str(limit), memory__oom_control=control,
        memory__swappiness="0", memory__use_hierarchy="0",
    )  # fmt: skip
    groups = memgroups.read(Hierarchy(1, str(tmp_path), ""), 100)
    assert groups["/"].limit is None and groups["/a"].kills_all is None
    assert (groups["/a"].total, groups["/b"].total) == (limit // PAGE + 4, limit // PAGE)
    assert groups["/b"].kills_none and groups["/b"].alone
    assert not groups["/a"].kills_none and not groups["/a"].alone


# ---------------------------------------------------------------------------- the choice


def holder(pid: int, mb: int = 10, adj: int = 0, score: int = 700, **more: object) -> Process:
    return Process(pid, 1, f"p{pid}", adj=adj, rss_kb=mb * MB, score=score, **more)  # type: ignore[arg-type]


KERNEL = Process(2, 0, "kthreadd", has_memory=False, is_kernel_thread=True)


def snapshot_of(
    *processes: Process, groups: tuple[MemGroup, ...] = (), settings: Settings | None = None
) -> Snapshot:
    settings = settings or Settings(TOTAL)
    return Snapshot([KERNEL, *processes], {one.path: one for one in groups}, settings, "/nowhere")


def test_init_and_the_exempt_are_not_chosen() -> None:
    found = snapshot_of(
        Process(1, 0, "init", rss_kb=900 * MB),
        holder(7, 800, -1000, 0),
        holder(8, 700, 0, 0),
        Process(9, 1, "gone", state="Z", has_memory=False),
        holder(10, 20),
        holder(11, 10),
    )
    one = choice.in_machine(found)
    assert (one.pid, one.runner_up, one.killed) == (10, 11, (10,))
    assert "7 (p7) holds more" in one.notes[0] and "-1000" in one.notes[0]
    assert "vfork" in found.exempt(found.by_pid[8])
    assert one.why == f"rss {20 * MB * 1024 // PAGE} + swap 0 + tables 0 + adj 0 x 1048 = 5120"


def test_adj_counts_by_the_total() -> None:
    """500 thousandths are half of the machine, or half of a limit."""
    group = MemGroup("/a", 2, (7, 8), 64 << 20, total=(64 << 20) // PAGE)
    found = snapshot_of(holder(7, 40, 0), holder(8, 1, 500), groups=(group,))
    assert choice.in_machine(found).pid == 8
    small = MemGroup("/a", 2, (7, 8), 48 << 20, total=(48 << 20) // PAGE)
    found = snapshot_of(holder(7, 40, 0), holder(8, 1, 500), groups=(small,))
    assert choice.in_group(found, small).pid == 7


def test_nobody_is_left() -> None:
    group = MemGroup("/a", 2, (7,), 64 << 20, total=16384)
    found = snapshot_of(holder(7, 10, -1000, 0), groups=(group,))
    one = choice.in_group(found, group)
    assert one.pid is None and "nobody may be chosen" in one.why and "-1000" in one.why


def test_equal_ones_are_said_to_be_equal() -> None:
    one = choice.in_machine(snapshot_of(holder(7), holder(9), holder(8)))
    assert one.pid == 9 and "3 are equal" in one.notes[0]


def nested(*together: str) -> tuple[MemGroup, ...]:
    rows = (("/", (1,), None), ("/a", (), 100 << 20), ("/a/b", (7, 8), None), ("/a/c", (9,), None))
    return tuple(
        MemGroup(path, 2, pids, limit, kills_all=path in together, total=limit and limit // PAGE)
        for path, pids, limit in rows
    )


@pytest.mark.parametrize(
    ("together", "where", "killed"),
    [
        ((), None, (7,)),
        (("/a/b",), "/a/b", (7, 8)),
        (("/a/b", "/a"), "/a", (7, 8, 9)),
        (("/a/c",), None, (7,)),
    ],
)
def test_the_highest_group_that_is_killed_as_one(
    together: tuple[str, ...], where: str | None, killed: tuple[int, ...]
) -> None:
    found = snapshot_of(holder(7, 30), holder(8), holder(9), groups=nested(*together))
    one = choice.in_group(found, found.groups["/a"])
    assert (one.pid, one.together, one.killed) == (7, where, killed)


def test_a_group_above_the_limit_is_not_killed_as_one() -> None:
    groups = nested("/a")
    inner = groups[2].replace(limit=50 << 20, total=12800)
    found = snapshot_of(holder(7, 30), holder(8), groups=(*groups[:2], inner, groups[3]))
    assert choice.in_group(found, inner).killed == (7,)
    assert choice.in_group(found, groups[1]).killed == (7, 8)


def test_the_exempt_member_of_such_a_group_lives() -> None:
    found = snapshot_of(holder(7, 30), holder(8, 1, -1000, 0), groups=nested("/a/b"))
    assert choice.in_group(found, found.groups["/a"]).killed == (7,)


def test_settings_that_change_the_choice() -> None:
    group = MemGroup("/a", 1, (7,), 64 << 20, total=16384)
    off = group.replace(kills_none=True)
    found = snapshot_of(holder(7), groups=(group,), settings=Settings(TOTAL, 1))
    assert choice.in_machine(found).pid is None
    assert "whoever asks" in choice.in_machine(found).why
    assert choice.in_group(found, group).pid == 7  # it is about the whole machine only
    assert "stands still" in choice.in_group(found, off).why
    found = snapshot_of(holder(7), groups=(group,), settings=Settings(TOTAL, 0, 1))
    assert "panics" in choice.in_machine(found).why and choice.in_group(found, group).pid == 7
    found = snapshot_of(holder(7), groups=(group,), settings=Settings(TOTAL, 0, 2))
    assert "panics" in choice.in_group(found, group).why


def test_a_container_sees_a_part_of_the_machine() -> None:
    found = Snapshot([holder(1, 30), holder(7)], {}, Settings(TOTAL))
    one = choice.in_machine(found)
    assert one.pid == 1 and "only a part" in one.notes[-1]


def test_a_chosen_one_that_is_being_killed() -> None:
    one = choice.in_machine(snapshot_of(holder(7, is_dying=True)))
    assert "being killed already" in one.notes[0]


def test_the_groups_that_concern_one() -> None:
    found = snapshot_of(holder(7), holder(9), groups=nested())
    assert [one.group for one in choice.choices(found, "/a/b")] == [None, "/a"]
    assert [one.group for one in choice.choices(found, "/x")] == [None]


@given(st.integers(-TOTAL, 2 * TOTAL), st.integers(1000, TOTAL))
def test_a_score_is_that_of_the_kernel(points: int, total: int) -> None:
    """As C works it out, with a long that is divided towards zero."""
    product = abs(points) * 1000 // total
    scaled = 1000 + (product if points >= 0 else -product)
    if scaled >= 0:
        assert choice.score_of(points, total) == scaled * 2 // 3


def test_the_old_scale_is_recognised() -> None:
    """Before 5.9 a score was a thousandth of the machine."""
    settings = Settings(TOTAL)
    processes = [holder(7, 400, 0, 97), holder(8, 40, 0, 9), holder(9, 1, -500, 0)]
    assert Snapshot(processes, {}, settings).old_scale
    assert not Snapshot([holder(7, 400, 0, 731)], {}, settings).old_scale
    # There a score of 0 tells nothing.
    assert Snapshot(processes, {}, settings).exempt(processes[2]) == ""


def test_who_shares_the_memory_of_the_chosen_dies_too() -> None:
    """A child between vfork and exec, which stands still in the middle of it."""
    code = "import os; os.posix_spawn('/bin/true', ['true'], {})"
    assert subprocess.run([sys.executable, "-c", code], check=True).returncode == 0
    own = os.getpid()
    assert _sys.share_memory(own, own) in (True, None)
    assert _sys.share_memory(own, 1) in (False, None)
    assert _sys.share_memory(own, 2**30) is None
    parent, child = holder(7, 30), Process(8, 7, "p7", score=0, rss_kb=30 * MB)
    assert choice.in_machine(snapshot_of(parent, child)).killed == (7, 8)
    assert "share its memory: 8" in pstable.text(report_of(parent, child))


# ---------------------------------------------------------------------------- daemons


def daemon(pid: int, comm: str, mb: int, adj: int = 0, ppid: int = 1) -> Process:
    return Process(pid, ppid, comm, adj=adj, rss_kb=mb * MB, score=700)


def before(*processes: Process, path: str = "/system.slice/x.service") -> list[str]:
    group = MemGroup(path, 2, (8,))
    return [f.text for f in daemons.before_the_hog(snapshot_of(*processes, groups=(group,)))]


def test_a_daemon_before_the_hog() -> None:
    hog = daemon(7, "redis", 2000, -900)
    (text,) = before(hog, daemon(9, "sshd", 5), daemon(10, "sshd", 5, ppid=9), daemon(11, "sh", 9))
    assert "sshd (9, oom_score_adj 0" in text and "before redis (7, oom_score_adj -900" in text
    (text,) = before(hog, daemon(8, "serve", 5))
    assert "serve of x.service (8" in text
    assert before(hog, daemon(8, "serve", 5), path="/system.slice/docker-1.scope") == []
    assert before(hog, daemon(8, "serve", 5), path="/user.slice/x.service") == []
    assert len(before(hog, daemon(9, "dockerd", 50), daemon(10, "kubelet", 50))) == 2


def test_no_daemon_before_the_hog() -> None:
    assert before(daemon(7, "redis", 2000), daemon(9, "sshd", 5, -1000), daemon(8, "x", 5)) == []
    assert before(daemon(7, "kubelet", 2000, -900), daemon(9, "sshd", 5)) == []


def test_whose_adj_is_to_be_changed() -> None:
    found = snapshot_of(daemon(7, "redis", 2000), daemon(9, "sshd", 5, 900))
    (one,) = daemons.before_the_hog(found)
    assert one.mend == "choom -n 0 -p 9"
    found = snapshot_of(daemon(7, "redis", 2000, -1000), daemon(9, "sshd", 5))
    (one,) = daemons.before_the_hog(found)
    assert one.mend == "choom -n 0 -p 7, or choom -n -1000 -p 9"


# ---------------------------------------------------------------------------- registrations


def covered(*processes: Process, **options: object) -> dict[int, str | None]:
    said = ps.report(snapshot_of(*processes, groups=nested()), **options)  # type: ignore[arg-type]
    return {row.process.pid: row.covered for row in said.rows}


def test_who_is_covered_by_whose_registration() -> None:
    family = [Process(7, 1, "a"), Process(8, 7, "b"), Process(9, 8, "c"), Process(10, 1, "d")]
    tree, alone = Registration(7, ["/h"], scope="tree"), Registration(8, ["/h"])
    assert covered(*family, registrations=[tree]) == {7: "own", 8: "tree", 9: "tree", 10: None}
    # The nearest that covers its descendants: one for a process alone is passed by.
    assert covered(*family, registrations=[tree, alone])[9] == "tree"
    assert covered(*family, registrations=[alone]) == {7: None, 8: "own", 9: None, 10: None}
    guarded = [("/a/c", Registration(7, ["/h"], scope="tree"))]
    orphan = Process(9, 1, "daemon")
    assert covered(family[0], orphan, registrations=[], guarded=guarded) == {7: "own", 9: "tree"}


# ---------------------------------------------------------------------------- the table


def report_of(*processes: Process, **options: object) -> ps.Report:
    options.setdefault("registrations", [])
    return ps.report(snapshot_of(*processes, groups=nested()), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [40, 80, 100, 200, None])
def test_the_table_fits(width: int | None) -> None:
    long = [Process(n, n - 1 if n > 7 else 1, "x" * 15, rss_kb=MB) for n in range(7, 40)]
    said = report_of(*long)
    table = pstable.text(said, width).split("\n\n")[0].splitlines()
    assert len(table) == 34
    assert all(len(line) <= max(width, 74) for line in table) if width else True
    assert ("x" * 15 in table[-1]) == (width is None or width > 120)
    assert (".." in table[-1]) == (width is not None and width < 120)


def test_scores_in_order_and_a_part_of_the_machine() -> None:
    some = (holder(7, 1, score=5), holder(8, 2, score=9), holder(9, 3, score=7))
    said = report_of(*some, by_score=True)
    assert [row.process.pid for row in said.rows] == [8, 9, 7]
    assert {row.depth for row in said.rows} == {0}
    assert [row.process.pid for row in report_of(*some, within="/a/b").rows] == [7, 8]


def test_limit_use_and_group_of_a_row() -> None:
    text = pstable.text(report_of(holder(7), holder(9)))
    header, first, *_ = text.splitlines()
    row = dict(zip(header.split(), first.split()))  # noqa: B905 - Python 3.9 runs this, too
    assert row["LIMIT"] == "^100M" and row["GRP"] == "0" and row["CGROUP"] == "/a/b"
    assert row["RSS"] == "10M" and row["REG"] == "-"
    assert "all 2 processes in it are killed" in pstable.text(
        ps.report(snapshot_of(holder(7, 20), holder(8), groups=nested("/a/b")), [])
    )
    unknown = pstable.text(report_of(holder(7), registrations=None)).splitlines()[1].split()
    assert unknown[header.split().index("REG")] == "?"


@pytest.mark.parametrize(
    ("kb", "text"),
    [(None, "-"), (0, "0K"), (999, "999K"), (1000, "1.0M"), (1 << 20, "1.0G"), (5 << 30, "5.0T")],
)
def test_sizes(kb: int | None, text: str) -> None:
    assert pstable.size(kb) == text


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=20))
@example("\x1b[2J\n'\\")
@example("\udcff\udc80")
@example("\u202e7")
@example("!x $y `z`")
def test_a_shell_reads_a_word_as_it_was(word: str) -> None:
    try:
        wanted = os.fsencode(word.replace("\0", ""))
    except UnicodeEncodeError:
        return  # half a pair, which no file can hold
    written = shell_word(word.replace("\0", ""))
    assert written.isprintable() and printable(word).isprintable()
    done = subprocess.run(
        ["bash", "-c", b"printf %s " + os.fsencode(written)], capture_output=True, check=True
    )
    assert done.stdout == wanted


# ---------------------------------------------------------------------------- the command


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-S", "-c", "print(flush=True); import time; time.sleep(60)"]
    with subprocess.Popen([*words, "a b", "\x1b[31m\n"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        yield process
        process.kill()


def test_the_command_on_this_machine(sleeper: subprocess.Popen[bytes]) -> None:
    done = gs("ps", procfs=Path("/proc"))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"\n{sleeper.pid:>{len(done.stdout.split('PID')[0]) + 3}} " in done.stdout
    assert "would be chosen now" in done.stdout
    table = done.stdout.split("\n\n")[0]
    assert "kthreadd" not in table and "\x1b" not in done.stdout


def test_command_lines_are_quoted(sleeper: subprocess.Popen[bytes]) -> None:
    done = gs("ps", "--extended", "--sort", "score", procfs=Path("/proc"))
    (line,) = [row for row in done.stdout.splitlines() if row.split()[:1] == [str(sleeper.pid)]]
    assert line.endswith("time.sleep(60)' 'a b' $'\\033[31m\\n'")


def test_as_json(sleeper: subprocess.Popen[bytes]) -> None:
    said = json.loads(gs("ps", "--json", "--extended", procfs=Path("/proc")).stdout)
    (one,) = [row for row in said["processes"] if row["pid"] == sleeper.pid]
    assert one["command"][-2:] == ["a b", "\x1b[31m\n"]
    assert one["ppid"] == os.getpid() and one["rss_kb"] > 1000
    assert {"oom_score", "oom_score_adj", "cgroup", "limited_by", "covered"} <= set(one)
    first = said["would_be_chosen"][0]
    assert first["group"] is None and first["total"] == said["total"]


def test_a_group_that_is_not_there(tmp_path: Path) -> None:
    where = Hierarchy(2, str(tmp_path), "")
    make_group(tmp_path / "a/b")
    assert ps.group_path("/a/b", where) == ps.group_path("a/b/", where) == "/a/b"
    assert ps.group_path(f"{tmp_path}/a", where) == "/a"
    assert ps.group_path(str(tmp_path), where) == ps.group_path("/", where) == "/"
    with pytest.raises(UsageError, match="no memory cgroup nothing"):
        ps.group_path("nothing", where)
    with pytest.raises(NotSupported, match="not mounted"):
        ps.group_path("/a", None)


def test_no_proc_file_system(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "none"):
        done = gs("ps", procfs=directory)
        assert done.returncode == 3 and done.stderr.startswith("gs-oom: ")
        assert done.stderr.count("\n") == 1


def test_a_terminal_has_its_width(sleeper: subprocess.Popen[bytes]) -> None:
    import fcntl
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
    env = environment(Path("/proc"))
    words = [sys.executable, "-m", "gs", "ps", "--extended"]
    with subprocess.Popen(words, cwd=REPO, env=env, stdout=slave) as process:
        os.close(slave)
        data = b""
        try:
            while block := os.read(master, 1 << 16):
                data += block
        except OSError:
            pass  # the other end is closed
    os.close(master)
    assert process.returncode == 0
    table = data.decode().replace("\r", "").split("\n\n")[0].splitlines()
    assert len(table) > 1 and all(len(line) <= 90 for line in table)


def test_as_a_single_file(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """As it is copied to a node: gs-oom.pyz, and an interpreter with nothing else."""
    source, target = tmp_path / "source", tmp_path / "gs-oom.pyz"
    shutil.copytree(REPO / "gs", source / "gs", ignore=shutil.ignore_patterns("__pycache__"))
    zipapp.create_archive(source, target, main="gs.cli:main", compressed=True)
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(target), "ps", "--json"],
        env=environment(Path("/proc")), cwd=tmp_path, capture_output=True, check=True,
    )  # fmt: skip
    assert sleeper.pid in [one["pid"] for one in json.loads(done.stdout)["processes"]]


# ---------------------------------------------------------------------------- many


def test_ten_thousand_processes_in_a_second(proc: Path) -> None:
    """Of recorded ones, the whole command: processor time, since others may keep it waiting."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no memory to record them in")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        many = Path(shutil.copytree(proc, f"{directory}/proc"))
        for pid in range(100, 10100):
            record(many, pid, max(pid // 10, 1), f"work{pid % 7}", pid % 900, rss=pid)
        took, said = [], ""
        for _ in range(3):
            before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            done = gs("ps", procfs=many)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert done.stdout.count("\n") > 10000, done.stderr
            took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            said = f"{min(took):.2f} s of a processor, {time.monotonic() - begin:.2f} s"
        print(f"10,000 recorded processes: {said}")
        assert min(took) < 1.0, said
