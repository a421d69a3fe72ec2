"""The tracepoint oom:graceful_shutdown, for perf and bpftrace: the event stream's twin."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import SLACK_MS, Event, Scene, program, register

TRACING = Path("/sys/kernel/debug/tracing")
SWITCH = TRACING / "events/oom/graceful_shutdown/enable"

_LINE = re.compile(
    r".* (?P<at>\d+\.\d+): graceful_shutdown: seq=(?P<seq>\d+) event=(?P<event>\w+) "
    r"pid=(?P<pid>\d+) comm=(?P<comm>.*) uid=(?P<uid>\d+) memcg=(?P<memcg>[01])"
)


@pytest.fixture(autouse=True)
def clock() -> Iterator[None]:
    """The trace's clock is the event stream's, and its buffer empty before and after."""
    before = re.search(r"\[(\w+)\]", (TRACING / "trace_clock").read_text())
    assert before
    (TRACING / "trace_clock").write_text("boot")
    (TRACING / "trace").write_text("")
    yield
    SWITCH.write_text("0")
    (TRACING / "trace_clock").write_text(before[1])


def traced() -> list[Event]:
    """What the tracepoint told, in its order; nothing else is switched on."""
    lines = (TRACING / "trace").read_text(errors="replace").splitlines()
    told = [line for line in lines if line and not line.startswith("#")]
    found = [_LINE.fullmatch(line) for line in told]
    assert all(found), f"not understood: {told}"
    return [match.groupdict() for match in found if match]


def same(record: Event, line: Event) -> bool:
    """Whether a line of the trace is of this record: all that it has, and at the same time."""
    keys = ("seq", "event", "pid", "comm", "uid")
    late = float(line["at"]) - int(record["time_ns"]) / 1e9
    return (
        [record[key] for key in keys] == [line[key] for key in keys]
        and (record["memcg"] != "-") == (line["memcg"] == "1")
        and 1000 * abs(late) < SLACK_MS
    )


def test_a_line_for_each_record(scene: Scene) -> None:
    """The same things happened to the same process, in the same order."""
    SWITCH.write_text("1")
    victim = scene.victim()
    register(victim.pid, program("do_nothing"))
    scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "done", "kill")
    records, lines = scene.events.all(), traced()
    assert len(records) == len(lines) == 3
    assert all(map(same, records, lines)), f"{records}\n{lines}"


def test_whatever_happens(memcg: Scene) -> None:
    """A grace that comes to nothing, one that never ends, and a kill without one."""
    SWITCH.write_text("1")
    expected = [
        (["/gs/bin/crash"], ["grace", "done", "kill"]),
        (["/gs/bin/never_ends"], ["grace", "timeout", "kill"]),
        ([], ["kill"]),
    ]
    for handler, _ in expected:
        victim = memcg.victim()
        if handler:
            register(victim.pid, *handler, grace_ms=300)
        memcg.kill_of(victim)
    records, lines = memcg.events.all(), traced()
    assert [line["event"] for line in lines] == [name for _, names in expected for name in names]
    assert len(records) == len(lines)
    assert all(map(same, records, lines)), f"{records}\n{lines}"


def test_switched_off_it_tells_nothing(memcg: Scene) -> None:
    victim = memcg.victim()
    memcg.kill_of(victim)
    time.sleep(0.1)
    assert memcg.events.all(pid=victim.pid) and traced() == []
