"""What can be seen of the OOM killer on a kernel that has nothing of ours: the exporter's figures
are those of the kernel log, and `gs ps` says whom the kernel will choose."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Stage
from exporting import Exporter, Figures, total, value
from harness import Group, KernelLog, kill, wait_until

pytest.importorskip("prometheus_client", reason="pip install 'gs-oom[exporter]'")

EVENTS, KILLS, LOST = "gs_oom_events_total", "gs_oom_kills_total", "gs_events_lost_total"
OF_CONTAINER = "container_oomkills_total"
COMMAND = "oom_condition_c"  # as much of the name as the kernel keeps

#: As the kernel writes them, in kB, and what they are called here.
FIGURES = {
    "total-vm": "total_vm_bytes",
    "anon-rss": "rss_anon_bytes",
    "file-rss": "rss_file_bytes",
    "shmem-rss": "rss_shmem_bytes",
    "pgtables": "pgtables_bytes",
}

Told = Callable[[str, object], None]


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    """One that has read what happened before the test."""
    return Exporter(tmp_path / "state")


def kills_of_machine() -> int:
    """By the kernel's own count."""
    (count,) = re.findall(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    return int(count)


def rise(before: Figures, after: Figures, name: str, **labels: str) -> float:
    return value(after, name, **labels) - value(before, name, **labels)


def check_figures(figures: Figures, log: KernelLog, group: str) -> None:
    """The gauges of a group's last kill, against its line."""
    line = log.matching("Killed process")[-1]
    labels = {"container_id": group, "command": COMMAND}
    for word, figure in FIGURES.items():
        (kilobytes,) = re.findall(rf"{word}:(\d+)kB", line)
        assert value(figures, f"container_oomkills_{figure}", **labels) == int(kilobytes) * 1024


def test_kills_are_told(stage: Stage, exporter: Exporter, kernel_log: KernelLog) -> None:
    before, group = exporter.before, stage.group()
    readable = {
        source: value(before, "gs_source_readable", source=source)
        for source in ("kernel", "guards", "kernel_log")
    }
    assert readable["kernel"] == 0 and readable["kernel_log"] == 1, readable
    for _ in range(3):
        stage.kill(group)
    after = exporter.once()
    assert rise(before, after, EVENTS, event="kill", constraint="memcg") == 3
    assert rise(before, after, KILLS, outcome="none") == 3
    assert value(after, OF_CONTAINER, container_id=group.name, command=COMMAND) == 3
    labels = {"container_id": group.name, "command": COMMAND}
    assert value(after, "container_oomkills_memory_limit_bytes", **labels) == 32 << 20
    check_figures(after, kernel_log, group.name)
    assert exporter.once() == after


def test_a_kill_for_want_of_memory_in_the_machine(
    stage: Stage, exporter: Exporter, kernel_log: KernelLog
) -> None:
    stage.kill(None)
    after = exporter.once()
    assert rise(exporter.before, after, EVENTS, event="kill", constraint="none") == 1
    assert rise(exporter.before, after, KILLS, outcome="none") == 1
    check_figures(after, kernel_log, "/")


def test_restarts_lose_and_double_nothing(
    stage: Stage, exporter: Exporter, record_property: Told
) -> None:
    """One at a time, and groups that die as a whole, whose kernel log has less to tell."""
    first, figures, rounds = kills_of_machine(), exporter.before, 6
    for number in range(rounds):
        group = stage.group()
        if number % 2:
            (group.path / "memory.oom.group").write_text("1")
            holders = [stage.hold(4, group) for _ in range(4)]
            for holder in holders:
                holder.go()
        stage.kill(group)
        figures = exporter.once()
    killed = kills_of_machine() - first
    assert killed >= rounds // 2 * (1 + 5)
    assert rise(exporter.before, figures, EVENTS, event="kill", constraint="memcg") == killed
    assert total(figures, OF_CONTAINER) - total(exporter.before, OF_CONTAINER) == killed
    assert total(figures, LOST) == 0
    record_property("exporter", f"{killed} kills, {rounds} restarts: all counted once")


def overwrite_the_log() -> None:
    """Write more than its ring has room for."""
    Path("/proc/sys/kernel/printk_devkmsg").write_text("on\n")
    with Path("/dev/kmsg").open("wb", buffering=0) as log:
        for _ in range(6000):
            log.write(b"gs-test: " + b"x" * 900)


def test_what_the_log_has_lost(stage: Stage, exporter: Exporter, record_property: Told) -> None:
    """Kills whose lines were overwritten are counted, and for their groups as the kernel's counts
    have it; but not for a group that is gone."""
    large, small, gone = stage.group(), stage.group(), Group()
    stage.kill(large)
    before = exporter.once()
    for group in (large, large, small, gone):
        stage.kill(group)
    gone.remove()
    overwrite_the_log()
    stage.kill(large)
    after = exporter.once()
    assert rise(before, after, LOST, source="kernel_log") == 4
    assert rise(before, after, EVENTS, event="kill", constraint="memcg") == 1
    assert rise(before, after, KILLS, outcome="none") == 1
    counted = {
        (group.name, command): value(after, OF_CONTAINER, container_id=group.name, command=command)
        for group in (large, small, gone)
        for command in ("", COMMAND)
    }
    assert counted == {
        (large.name, COMMAND): 2,
        (large.name, ""): 2,
        (small.name, COMMAND): 0,
        (small.name, ""): 1,
        (gone.name, COMMAND): 0,
        (gone.name, ""): 0,
    }
    assert exporter.once() == after
    record_property("exporter", "a gap of 4 kills in the kernel log: counted, 3 for their groups")


# ---------------------------------------------------------------------------- gs ps


def gs_ps() -> dict[str, Any]:
    command = [sys.executable, "-m", "gs", "ps", "--json"]
    done = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def resident_mb(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages >> 8


@pytest.mark.parametrize("sizes", [(16, 10), (6, 20), (12, 9, 5), (4, 18, 4)])
def test_gs_ps_says_who_is_chosen(stage: Stage, sizes: tuple[int, ...]) -> None:
    """Then its limit of 32 MB is reached by another's doing, who never holds as much."""
    group = stage.group()
    holders = [stage.hold(mb, group) for mb in sizes]
    for holder, mb in zip(holders, sizes):
        holder.go()
        wait_until(lambda: resident_mb(holder.pid) >= mb, timeout=60)  # noqa: B023
    said = gs_ps()
    scores = {one["pid"]: one["oom_score"] for one in said["processes"]}
    for holder in holders:
        assert scores[holder.pid] == int(Path(f"/proc/{holder.pid}/oom_score").read_text())
    (choice,) = [one for one in said["would_be_chosen"] if one["group"] == group.name]
    largest = holders[sizes.index(max(sizes))]
    assert choice["pid"] == largest.pid
    assert sum(sizes) == 26
    asker = stage.hold(8, group)
    asker.go()
    assert largest.wait() == -9
    kill(asker.pid)
