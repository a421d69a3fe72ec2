"""The exporter's figures are those of the events, whatever becomes of the exporter meanwhile.

GS_EXPORTED is how many events are counted while the exporter comes and goes (default 300); of
10000 and more there is a gap, too, which takes as many events as the kernel keeps, and its own.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from exported import Exporter, Figures, total, value
from harness import (
    EVENTS,
    MB,
    SLOWER,
    Event,
    Events,
    Scene,
    kill,
    parse_event,
    program,
    register,
    wait_until,
)

pytest.importorskip("prometheus_client", reason="pip install 'gs-oom[exporter]'")

COUNT = int(os.environ.get("GS_EXPORTED", "300"))

#: Kills of one OOM, and what so many processes take.
BATCH, ROOM = 500 if COUNT >= 10000 else 100, 160 * MB

GAP = 2000


def kept() -> list[Event]:
    """All that the kernel keeps, read anew."""
    file = os.open(EVENTS, os.O_RDONLY | os.O_NONBLOCK)
    text = b""
    try:
        while True:
            text += os.read(file, 1 << 20)
    except BlockingIOError:
        pass
    finally:
        os.close(file)
    return [parse_event(line) for line in text.decode(errors="replace").splitlines()]


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    """One that has read what happened before the test."""
    return Exporter(tmp_path / "state")


# ---------------------------------------------------------------------------- every outcome


def end_in_every_way(scene: Scene, place: Path) -> None:
    """An OOM of each outcome: no handler, done, timeout, failed, by a signal, gone."""
    scene.kill_of(scene.victim())
    for handler, grace_ms in (("do_nothing", 20000), ("never_ends", 1000)):
        victim = scene.victim()
        register(victim.pid, program(handler), grace_ms=grace_ms)
        scene.kill_of(victim)
    victim = scene.victim()
    removed = Path(shutil.copy(program("do_nothing"), place / f"removed-{scene.kind}"))
    register(victim.pid, removed)
    removed.unlink()
    scene.kill_of(victim)
    victim = scene.victim()
    register(victim.pid, signal=10, grace_ms=1000)  # SIGUSR1, which ends it
    victim.go()
    victim.wait()
    leaver = scene.victim("--exit-on-term")
    register(leaver.pid, program("never_ends"), grace_ms=int(3000 * SLOWER))
    leaver.go()
    scene.events.wait(event="grace", pid=leaver.pid)
    kill(leaver.pid, 15)
    scene.events.wait(event="gone", pid=leaver.pid)
    leaver.wait()
    # Its handler goes on to its deadline.
    scene.events.wait(event="timeout", pid=leaver.pid, timeout=30)


def is_averted(scene: Scene) -> None:
    """A handler makes room, and nothing is killed."""
    group = scene.group(64 * MB)
    helper = scene.hold("40M", group=group, adj=0)
    victim = scene.victim("--total", "54M", "--hold", group=group, adj=1000)
    register(victim.pid, program("free_memory"), str(helper.pid), grace_ms=5000)
    victim.go()
    scene.events.wait(event="averted", pid=victim.pid)


def check_events(before: Figures, after: Figures, seen: list[Event]) -> None:
    """The counters rose by what was seen, each of them, and no other did."""
    name = "gs_oom_events_total"
    wanted = Counter((event["event"], event["constraint"]) for event in seen)
    rose = {
        (dict(labels)["event"], dict(labels)["constraint"]): count - before.get((sample, labels), 0)
        for (sample, labels), count in after.items()
        if sample == name
    }
    assert {key: count for key, count in rose.items() if count} == dict(wanted)
    outcomes = Counter(event["outcome"] for event in seen if event["event"] == "kill")
    for outcome in ("none", "done", "timeout", "failed", "signal"):
        labels = {"outcome": outcome}
        count = value(after, "gs_oom_kills_total", **labels)
        assert count - value(before, "gs_oom_kills_total", **labels) == outcomes[outcome], outcome
    assert total(after, "gs_events_lost_total") == total(before, "gs_events_lost_total")


def check_results(before: Figures, after: Figures, seen: list[Event]) -> None:
    """One result for each handler, and its time."""
    first: dict[str, Event] = {}
    for event in seen:
        if event["event"] in ("done", "timeout", "failed"):
            first.setdefault(event["pid"], event)
    wanted = Counter(event["event"] for event in first.values())
    for result in ("done", "timeout", "failed"):
        labels = {"result": result}
        count = value(after, "gs_handler_results_total", **labels)
        count -= value(before, "gs_handler_results_total", **labels)
        assert count == wanted[result], result
    timed = [int(event["elapsed_us"]) / 1e6 for event in first.values() if "elapsed_us" in event]
    name = "gs_handler_duration_seconds"
    assert value(after, f"{name}_count") - value(before, f"{name}_count") == len(timed)
    took = value(after, f"{name}_sum") - value(before, f"{name}_sum")
    assert took == pytest.approx(sum(timed))


def check_figures(figures: Figures, event: Event) -> None:
    """The gauges of the last kill of that container, against its record."""
    name = event["memcg"] if event["memcg"] != "-" else "/"
    labels = {"container_id": name, "command": event["comm"]}

    def gauge(figure: str) -> float:
        return figures["container_oomkills_" + figure, frozenset(labels.items())]

    for figure, key, factor in (
        ("oc_total_bytes", "total_pages", 4096),
        ("oc_chosen_points", "points", 1),
        ("memory_usage_bytes", "mem_kb", 1024),
        ("rss_anon_bytes", "anon_kb", 1024),
        ("rss_file_bytes", "file_kb", 1024),
        ("rss_shmem_bytes", "shmem_kb", 1024),
        ("rss_swapents_bytes", "swapents_kb", 1024),
        ("pgtables_bytes", "pgtables_kb", 1024),
        ("task_size", "task_size_kb", 1024),
        ("hiwater_rss_bytes", "hiwater_rss_kb", 1024),
        ("hiwater_vm_bytes", "hiwater_vm_kb", 1024),
        ("total_vm_bytes", "total_vm_kb", 1024),
        ("locked_vm_bytes", "locked_kb", 1024),
        ("data_vm_bytes", "data_kb", 1024),
        ("exec_vm_bytes", "exec_kb", 1024),
        ("stack_vm_bytes", "stack_kb", 1024),
        ("oom_score_adj", "oom_score_adj", 1),
        ("num_threads", "threads", 1),
        ("min_flt", "minflt", 1),
        ("maj_flt", "majflt", 1),
        ("prio", "prio", 1),
        ("static_prio", "static_prio", 1),
        ("utime", "utime_ns", 1),
        ("stime", "stime_ns", 1),
        ("gtime", "gtime_ns", 1),
        ("start_time_ns", "start_time_ns", 1),
        ("start_boottime_ns", "start_boottime_ns", 1),
    ):
        assert gauge(figure) == int(event[key]) * factor, figure
    assert gauge("flags") == int(event["flags"], 16)
    assert gauge("page_size_bytes") == 4096
    assert gauge("pinned_vm") == int(event["pinned_kb"]) // 4
    age = (int(event["time_ns"]) - int(event["start_boottime_ns"])) // 1_000_000
    assert gauge("uptime_ms") == age


def test_every_outcome(exporter: Exporter, scene: Scene, tmp_path: Path) -> None:
    before = exporter.before
    end_in_every_way(scene, tmp_path)
    if scene.kind == "memcg":
        is_averted(scene)
    seen = scene.events.all()
    after = exporter.once()
    check_events(before, after, seen)
    check_results(before, after, seen)
    kinds = {event["event"] for event in seen}
    assert kinds >= {"grace", "done", "timeout", "failed", "gone", "kill"}, kinds
    kills = [event for event in seen if event["event"] == "kill"]
    assert {event["outcome"] for event in kills} >= {"none", "done", "timeout", "failed"}
    check_figures(after, kills[-1])


def test_registrations(exporter: Exporter, memcg: Scene) -> None:
    assert value(exporter.before, "gs_registrations") == 0
    for _ in range(3):
        register(memcg.victim().pid, program("do_nothing"))
    assert value(exporter.once(), "gs_registrations") == 3


# ---------------------------------------------------------------------------- restarts and gaps


@pytest.fixture
def quiet() -> None:
    """Each kill has a line in the kernel log; on a serial line they would take a minute."""
    Path("/proc/sys/kernel/printk").write_text("1")


def kill_many(count: int) -> None:
    """So many kills, and as many events: one OOM of a group that dies as a whole."""
    events = Events()
    scene = Scene("memcg", events)
    try:
        group = scene.group(ROOM)
        (group.path / "memory.oom.group").write_text("1")
        victim = scene.victim(str(count - 1), group=group, name="crowd")
        victim.go()
        assert victim.wait() == -9
        wait_until(lambda: len(events.all(event="kill")) >= count, timeout=60)
    finally:
        scene.close()
        events.close()


@pytest.mark.usefixtures("v2", "quiet")
def test_restarts_lose_and_double_nothing(
    exporter: Exporter, record_property: Callable[[str, object], None]
) -> None:
    before = exporter.before
    first = int(kept()[-1]["seq"]) if kept() else 0
    for _ in range(COUNT // BATCH):
        kill_many(BATCH)
        figures = exporter.once()
    told = int(kept()[-1]["seq"]) - first
    assert told >= COUNT // BATCH * BATCH
    name = "gs_oom_events_total"
    assert total(figures, name) - total(before, name) == told
    assert (
        value(figures, name, event="kill", constraint="memcg")
        == value(before, name, event="kill", constraint="memcg") + COUNT // BATCH * BATCH
    )
    assert total(figures, "gs_events_lost_total") == 0
    record_property("exporter", f"{told} events, {COUNT // BATCH} restarts: all counted once")


@pytest.mark.skipif(COUNT < 10000, reason="needs GS_EXPORTED of 10000, to fill the kernel's ring")
@pytest.mark.usefixtures("v2", "quiet")
def test_a_gap_is_counted_exactly(
    exporter: Exporter, record_property: Callable[[str, object], None]
) -> None:
    before = exporter.before
    position = int(kept()[-1]["seq"])
    while int(kept()[0]["seq"]) - position - 1 < GAP:
        kill_many(BATCH)
    left = [int(event["seq"]) for event in kept()]
    figures = exporter.once()
    name = "gs_events_lost_total"
    lost = value(figures, name, source="kernel") - value(before, name, source="kernel")
    assert lost == left[0] - position - 1
    name = "gs_oom_events_total"
    assert total(figures, name) - total(before, name) == len(left)
    assert lost + len(left) == left[-1] - position
    record_property("exporter", f"a gap of {lost:.0f} events: counted as so many lost")


# ---------------------------------------------------------------------------- other surroundings


def test_what_a_stock_kernel_tells(memcg: Scene, tmp_path: Path) -> None:
    """From the kernel log alone, as if this kernel had nothing of ours; it agrees."""
    exporter = Exporter(tmp_path / "state", GS_PROCFS="/nowhere")
    before = exporter.before
    assert value(before, "gs_source_readable", source="kernel") == 0
    assert value(before, "gs_source_readable", source="kernel_log") == 1
    kills = [memcg.kill_of(memcg.victim()) for _ in range(3)]
    after = exporter.once()
    name = "gs_oom_events_total"
    labels = {"event": "kill", "constraint": "memcg"}
    assert value(after, name, **labels) - value(before, name, **labels) == len(kills)
    assert total(after, "gs_events_lost_total") == 0
    for event in kills:
        labels = {"container_id": event["memcg"], "command": event["comm"]}
        for figure, key in (
            ("rss_anon_bytes", "anon_kb"),
            ("rss_file_bytes", "file_kb"),
            ("rss_shmem_bytes", "shmem_kb"),
            ("total_vm_bytes", "total_vm_kb"),
            ("memory_limit_bytes", "mem_max_kb"),
        ):
            figure = "container_oomkills_" + figure
            assert value(after, figure, **labels) == int(event[key]) * 1024, figure
    assert exporter.once() == after


def test_the_rights_of_its_unit_are_enough(memcg: Scene, tmp_path: Path) -> None:
    """Nobody, with the two capabilities that the unit leaves it, tells the same as root."""
    memcg.kill_of(memcg.victim())
    tmp_path.chmod(0o755)
    state = tmp_path / "nobody"
    state.mkdir()
    os.chown(state, 65534, 65534)
    capabilities = "+dac_read_search,+syslog"
    within = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    within += [f"--inh-caps=-all,{capabilities}", f"--ambient-caps=-all,{capabilities}"]
    within += [f"--bounding-set=-all,{capabilities}"]
    alone = Exporter(state, within, GS_RUN_DIRECTORY="/run/gs")
    roots = Exporter(tmp_path / "root")
    assert roots.once() == alone.once()
