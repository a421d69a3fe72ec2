"""`gs explain` on the log of the kernel under test: it tells what the test itself knows.

The logs are left in /out/oomlogs, each beside what is expected of it, for the unit tests to keep.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import LIMIT, MB, Event, Group, Scene, Victim, program, register, wait_until

GS = Path("/gs")
OUT = Path("/out/oomlogs")
KMSG = Path("/dev/kmsg")

Data = dict[str, Any]


class Log:
    """The records of /dev/kmsg from now on, as they are read."""

    def __init__(self) -> None:
        self._file = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._file, 0, os.SEEK_END)
        self._records = b""

    def read(self) -> bytes:
        """All of it so far."""
        while True:
            try:
                self._records += os.read(self._file, 8192)
            except BlockingIOError:
                return self._records
            except OSError as error:
                if error.errno != errno.EPIPE:  # some were overwritten before they were read
                    raise

    def wait(self, text: bytes) -> bytes:
        """All of it, once this is there."""
        wait_until(lambda: text in self.read(), why=f"not in the kernel log: {text!r}")
        return self.read()

    def whole_report(self, last: bytes) -> bytes:
        """The first report that ends so and of which no record is missing."""
        wait_until(lambda: whole_report(self.read(), last), why=f"no report ends with {last!r}")
        return whole_report(self.read(), last)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def whole_report(records: bytes, last: bytes) -> bytes:
    """As above; nothing if there is none. The second word of a record is its number."""
    report: list[bytes] = []
    for line in records.splitlines(keepends=True):
        if line.startswith(b" "):
            continue
        follows = report and int(line.split(b",")[1]) == int(report[-1].split(b",")[1]) + 1
        if b"invoked oom-killer" in line:
            report = [line]
        else:
            report = [*report, line] if follows else []
        if report and last in line:
            return b"".join(report)
    return b""


@pytest.fixture(autouse=True)
def log() -> Iterator[Log]:
    """The kernel log from now on, with the list of tasks in it."""
    with setting("vm/oom_dump_tasks", "1"):
        log = Log()
        yield log
        log.close()


@contextmanager
def setting(name: str, value: str) -> Iterator[None]:
    """A sysctl for the length of the block."""
    path = Path("/proc/sys") / name
    before = path.read_text()
    path.write_text(value)
    try:
        yield
    finally:
        path.write_text(before)


def explain(log: bytes, *words: str) -> Data:
    """What the command says of a log."""
    done = subprocess.run(
        [sys.executable, "-m", "gs", "explain", "-", "--json", *words],
        input=log, capture_output=True, check=False, cwd=GS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def one(log: bytes, name: str, expected: Data) -> Data:
    """The only report of a log, which has to say what is expected; both are kept."""
    told = explain(log)
    OUT.mkdir(parents=True, exist_ok=True)
    release = os.uname().release
    (OUT / f"{release}-{name}.log").write_bytes(log)
    (OUT / f"{release}-{name}.json").write_text(json.dumps(expected, indent=2) + "\n")
    assert len(told["reports"]) == 1, told
    report: Data = told["reports"][0]
    wrong = {
        key: (value_at(report, key), value)
        for key, value in expected.items()
        if value_at(report, key) != value
    }
    assert not wrong, f"told, expected: {wrong}\n{json.dumps(report, indent=1)}"
    assert report["kernel"] == release
    return report


def value_at(report: Data, path: str) -> object:
    """A value by its keys, with dots; of a list its keys of the same name."""
    value: Any = report
    for key in path.split("."):
        if isinstance(value, list):
            value = [item[key] for item in value]
        else:
            value = value[key]
    return value


def of(victim: Victim, comm: str = "oom_condition_c") -> Data:
    """What is always to be said of a victim."""
    return {
        "chosen.pid": victim.pid,
        "chosen.comm": comm,
        "outcome": "killed",
        "judgement.agrees": True,
        "missing": [],
    }


def of_total(kill: Event) -> Data:
    """What an oom_score_adj of 1000 is worth, of which the kernel's own record tells."""
    return {"judgement.total_pages": [int(kill["total_pages"])] * 2}


def of_group(group: Group, limit: int = LIMIT) -> Data:
    """What is to be said of the limit that was met."""
    return {
        "scope": "memcg",
        "constraint": "memcg",
        "memcg.path": group.name,
        "memcg.task_path": group.name,
        "memcg.memory.limit_kb": limit // 1024,
    }


def kinds(report: Data) -> set[str]:
    """The kinds of hints."""
    return {hint["kind"] for hint in report["hints"]}


# ---------------------------------------------------------------------------- memory cgroups


def test_a_memory_cgroup(memcg: Scene, log: Log, v2: None) -> None:
    group = memcg.group()
    memcg.hold("4M", group=group, adj=0)
    victim = memcg.victim(group=group)
    memcg.kill_of(victim)
    report = one(
        log.wait(b"Killed process"), "memcg",
        {
            **of(victim), **of_group(group), "asker.pid": victim.pid, "asker.order": 0,
            "killed.pid": [victim.pid], "judgement.candidates": 2, "group": None,
        },
    )  # fmt: skip
    assert {"limit", "no-swap"} <= kinds(report)
    parts = {part["name"]: part["kb"] for part in report["memory"]["parts"]}
    assert parts["anonymous"] > 0.9 * LIMIT / 1024


def test_the_weights_are_the_kernels(scene: Scene, log: Log, v2: None) -> None:
    """Who is chosen has, by our sum, the very points that the kernel's own record of it has."""
    victim = scene.victim(adj=500 if scene.kind == "memcg" else 1000)
    kill = scene.kill_of(victim)
    expected = {**of(victim), **of_total(kill)}
    report = one(log.wait(b"Killed process"), f"weights-{scene.kind}", expected)
    assert report["judgement"]["points"] == [pytest.approx(int(kill["points"]), abs=70)] * 2
    assert report["scope"] == ("memcg" if scene.kind == "memcg" else "global")


def test_an_adjustment_decides(memcg: Scene, log: Log, v2: None) -> None:
    """A small process with a high oom_score_adj is chosen, and the large one is named."""
    group = memcg.group()
    small = memcg.hold("2M", group=group, adj=900)
    hog = memcg.victim(group=group)
    hog.go()
    assert small.wait() == -signal.SIGKILL
    records = log.wait(b"Killed process")
    hog.close()
    first = records[: records.index(b"\n", records.index(b"Killed process")) + 1]
    report = one(first, "adjustment", {**of(small, "hold_memory"), **of_group(group)})
    hint = next(hint for hint in report["hints"] if hint["kind"] == "adjustment")
    assert (hint["spared_pid"], hint["victim_adj"]) == (hog.pid, 900)


def test_swap(swap: None, memcg: Scene, log: Log, v2: None) -> None:
    """With swap the total is the limit and what may be swapped, and that counts as weight."""
    group = memcg.group(swap=8 * MB)
    victim = memcg.victim(group=group)
    memcg.kill_of(victim)
    report = one(
        log.wait(b"Killed process"), "swap",
        {**of(victim), **of_group(group), "memcg.swap.limit_kb": 8192},
    )  # fmt: skip
    assert report["judgement"]["total_pages"] == [LIMIT // 4096, (LIMIT + 8 * MB) // 4096]
    assert report["candidates"][0]["swapents"] > 1000
    assert "swap-full" in kinds(report)


def test_a_limit_above(memcg: Scene, log: Log, v2: None) -> None:
    above = memcg.group()
    below = memcg.group(limit=None, parent=above)
    victim = memcg.victim(group=below)
    memcg.kill_of(victim)
    report = one(
        log.wait(b"Killed process"), "ancestor",
        {**of(victim), **of_group(above), "memcg.task_path": below.name},
    )  # fmt: skip
    assert "ancestor" in kinds(report)


def test_a_group_that_dies_as_one(memcg: Scene, log: Log, v2: None) -> None:
    group = memcg.group()
    (group.path / "memory.oom.group").write_text("1")
    others = [memcg.hold("1M", group=group, adj=0) for _ in range(3)]
    victim = memcg.victim(group=group)
    memcg.kill_of(victim)
    for other in others:
        assert other.wait() == -signal.SIGKILL
    report = one(log.read(), "group", {**of(victim), **of_group(group), "group": group.name})
    pids = {kill["pid"] for kill in report["killed"]}
    assert pids == {victim.pid, *(other.pid for other in others)}
    assert "group" in kinds(report)


def test_nobody_may_be_killed(memcg: Scene, log: Log, v2: None) -> None:
    """All in the group are exempt: the allocation fails, and nothing dies of the OOM."""
    group = memcg.group()
    exempt = memcg.victim("--shape", "read", group=group, adj=-1000)
    exempt.go()
    records = log.whole_report(b"no killable processes")
    exempt.close()
    report = one(
        records, "nobody",
        {
            **of_group(group), "memcg.task_path": None, "outcome": "no-victim", "chosen.pid": None,
            "killed.pid": [], "asker.pid": exempt.pid, "judgement.agrees": True, "missing": [],
            "judgement.candidates": 0, "judgement.never": 1,
        },
    )  # fmt: skip
    assert {"no-victim", "unkillable"} <= kinds(report)


# ---------------------------------------------------------------------------- the machine


def test_the_machine(machine: Scene, log: Log) -> None:
    machine.bystander()
    victim = machine.victim()
    machine.kill_of(victim)
    records = log.wait(b"Killed process")
    report = one(
        records, "global",
        {**of(victim), "scope": "global", "constraint": "none", "killed.pid": [victim.pid]},
    )  # fmt: skip
    assert {"no-swap", "unkillable"} <= kinds(report)
    words = Path("/proc/meminfo").read_text().split()
    total = int(words[words.index("MemTotal:") + 1])
    assert report["memory"]["total_kb"] == pytest.approx(total, rel=0.01)
    assert sum(part["kb"] for part in report["memory"]["parts"]) == pytest.approx(total, rel=0.05)


def test_who_asks_is_killed(machine: Scene, log: Log) -> None:
    machine.bystander()
    victim = machine.victim(adj=0)
    with setting("vm/oom_kill_allocating_task", "1"):
        machine.kill_of(victim)
    report = one(
        log.wait(b"Killed process"), "asker",
        {**of(victim), "scope": "global", "asker.pid": victim.pid},
    )  # fmt: skip
    assert "asker" in kinds(report)


def test_a_cpuset(machine: Scene, log: Log, v2: None) -> None:
    """A group may use one node's memory only: its OOM is that node's."""
    nodes = Path("/sys/devices/system/node/has_memory")
    if not nodes.exists() or nodes.read_text().strip() == "0":
        pytest.skip("the machine has one node of memory")
    Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+cpuset")
    group = machine.group(limit=None)
    (group.path / "cpuset.mems").write_text("1")
    victim = machine.victim(group=group)
    kill = machine.kill_of(victim)
    report = one(
        log.wait(b"Killed process"), "cpuset",
        {
            **of(victim), **of_total(kill), "scope": "global", "constraint": "cpuset",
            "mems_allowed": "1",
        },
    )  # fmt: skip
    assert report["judgement"]["points"] == [pytest.approx(int(kill["points"]), abs=70)] * 2


# ---------------------------------------------------------------------------- handlers, and more


def test_what_came_of_the_handler(memcg: Scene, log: Log) -> None:
    """Of a saved log, with the events beside it; and of the running kernel, by itself."""
    victim = memcg.victim()
    register(victim.pid, program("do_nothing"))
    memcg.kill_of(victim)
    records = log.wait(b"Killed process")
    assert explain(records)["reports"][0]["handling"] is None
    events = Path("/tmp/events")
    done = subprocess.run(
        [sys.executable, "-m", "gs", "watch", "--raw", "--no-follow"],
        capture_output=True, check=True, cwd=GS,
    )  # fmt: skip
    events.write_bytes(done.stdout)
    handling = explain(records, "--events", str(events))["reports"][0]["handling"]
    kill = memcg.events.all(event="kill", pid=victim.pid)[0]
    ended = memcg.events.all(event="done", pid=victim.pid)[0]
    assert handling == {
        "handler": program("do_nothing"), "outcome": "done", "seq": int(kill["seq"]),
        "elapsed_us": int(ended["elapsed_us"]), "exit_status": 0, "errno": None,
    }  # fmt: skip
    here = subprocess.run(
        [sys.executable, "-m", "gs", "explain", "--json"], capture_output=True, check=True, cwd=GS
    )
    last = json.loads(here.stdout)["reports"][-1]
    assert (last["chosen"]["pid"], last["handling"]) == (victim.pid, handling)


def test_repeats_are_one_incident(memcg: Scene, log: Log) -> None:
    group = memcg.group()
    victims = []
    for _ in range(3):
        victim = memcg.victim(group=group)
        memcg.kill_of(victim)
        victims.append(victim.pid)
    told = explain(log.wait(f"Killed process {victims[-1]} ".encode()))
    assert [report["chosen"]["pid"] for report in told["reports"]] == victims
    assert [report["judgement"]["agrees"] for report in told["reports"]] == [True] * 3
    assert [incident["count"] for incident in told["incidents"]] == [3]


def test_a_refusal_by_overcommit(log: Log) -> None:
    """Nobody is killed; older kernels say nothing of it."""
    code = "import mmap; mmap.mmap(-1, 1 << 40, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert b"Cannot allocate memory" in done.stderr
    told = explain(log.read())
    assert told["reports"] == []
    if re.search(rb"__vm_enough_memory", log.read()):
        assert [one["comm"] for one in told["refusals"]] == ["python3"]
    else:
        assert told["refusals"] == []
