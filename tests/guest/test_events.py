"""The event stream itself: dense numbers, readers of their own, poll, the figures of a kill."""

from __future__ import annotations

import os
import select
import threading
import time
from pathlib import Path

import pytest
from harness import EVENTS, Scene, parse_event, program, register

FIGURES = [
    "points",
    "total_pages",
    "oom_score_adj",
    "mem_kb",
    "mem_max_kb",
    "mem_low_kb",
    "mem_swap_kb",
    "mem_swap_max_kb",
    "memsw_kb",
    "memsw_max_kb",
    "swappiness",
    "anon_kb",
    "file_kb",
    "shmem_kb",
    "swapents_kb",
    "pgtables_kb",
    "total_vm_kb",
    "hiwater_rss_kb",
    "hiwater_vm_kb",
    "locked_kb",
    "pinned_kb",
    "data_kb",
    "exec_kb",
    "stack_kb",
    "task_size_kb",
    "threads",
    "flags",
    "prio",
    "static_prio",
    "minflt",
    "majflt",
    "utime_ns",
    "stime_ns",
    "gtime_ns",
    "start_time_ns",
    "start_boottime_ns",
    "by_pid",
    "by_comm",
    "gfp",
    "order",
]


def one_kill(scene: Scene) -> int:
    """Something happens; gives the victim's pid."""
    victim = scene.victim()
    register(victim.pid, program("do_nothing"))
    scene.kill_of(victim)
    return victim.pid


def test_numbers_are_dense_and_times_ascend(memcg: Scene) -> None:
    for _ in range(3):
        one_kill(memcg)
    seen = memcg.events.all()
    numbers = [int(event["seq"]) for event in seen]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    times = [int(event["time_ns"]) for event in seen]
    assert times == sorted(times)
    assert times[-1] <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    for event in seen:
        assert {"pid", "comm", "uid", "constraint", "memcg"} <= set(event)


def test_the_figures_of_a_kill(scene: Scene) -> None:
    victim = scene.victim()
    kill = scene.kill_of(victim)
    assert not [key for key in FIGURES if key not in kill]
    limit_kb = 32 * 1024
    if scene.kind == "memcg":
        assert int(kill["mem_max_kb"]) == limit_kb
        assert 0.9 * limit_kb <= int(kill["mem_kb"]) <= limit_kb
        assert 0.8 * limit_kb <= int(kill["anon_kb"]) <= limit_kb
    else:
        assert int(kill["anon_kb"]) > 50 * 1024
    assert kill["oom_score_adj"] == ("0" if scene.kind == "memcg" else "1000")
    assert kill["threads"] == "1"
    assert kill["by_pid"] == str(victim.pid) or scene.kind == "global"
    assert int(kill["minflt"]) > 1000
    assert 0 < int(kill["start_boottime_ns"]) < int(kill["time_ns"])
    assert kill["uid"] == "0" and kill["group"] == "0"


def test_every_open_file_has_its_own_position(memcg: Scene) -> None:
    one_kill(memcg)
    texts = []
    for _ in range(2):
        file = os.open(EVENTS, os.O_RDONLY | os.O_NONBLOCK)
        texts.append(os.read(file, 1 << 20))
        os.close(file)
    assert texts[0] == texts[1]
    assert texts[0].endswith(b"\n")


def test_a_reader_may_take_little_at_a_time(memcg: Scene) -> None:
    pid = one_kill(memcg)
    file = os.open(EVENTS, os.O_RDONLY | os.O_NONBLOCK)
    text = b""
    try:
        while True:
            text += os.read(file, 7)
    except BlockingIOError:
        pass
    finally:
        os.close(file)
    records = [parse_event(line) for line in text.decode().splitlines()]
    assert [r["event"] for r in records if r.get("pid") == str(pid)] == ["grace", "done", "kill"]


def test_a_reader_blocks_until_there_is_a_record(memcg: Scene) -> None:
    file = os.open(EVENTS, os.O_RDONLY)
    got: list[bytes] = []
    try:
        while select.select([file], [], [], 0)[0]:
            os.read(file, 1 << 20)
        thread = threading.Thread(target=lambda: got.append(os.read(file, 1 << 16)))
        thread.start()
        time.sleep(0.3)
        assert not got
        one_kill(memcg)
        thread.join(10)
        assert got and got[0].startswith(b"seq=")
    finally:
        os.close(file)


def test_poll(memcg: Scene) -> None:
    file = os.open(EVENTS, os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(file, select.POLLIN)
    try:
        while poll.poll(0):
            os.read(file, 1 << 20)
        with pytest.raises(BlockingIOError):
            os.read(file, 100)
        one_kill(memcg)
        assert poll.poll(5000)
    finally:
        os.close(file)


def test_escapes_in_a_name(memcg: Scene, tmp_path: Path) -> None:
    """A program whose name has blanks, newlines and equals signs splits no record."""
    odd = tmp_path / "a b\\\nc=d"
    odd.symlink_to(program("oom_condition_creator"))
    victim = memcg.victim(name=str(odd))
    kill = memcg.kill_of(victim)
    assert kill["comm"] == "a\\040b\\134\\012c=d"
