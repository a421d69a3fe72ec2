"""What the exporter tells on a kernel that has nothing of ours, against what that says itself: the
lines of its log, its count of kills, and the counts of its memory cgroups."""

from __future__ import annotations

import errno
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cgroups
import pytest
from exported import Exporter, Figures, total, value
from harness import EVENTS, FEATURES, MB, REGISTRY, Event, Events, Group, Scene, wait_until

pytest.importorskip("prometheus_client", reason="pip install 'gs-oom[exporter]'")

KMSG = Path("/dev/kmsg")

#: As Docker calls a container's group, and what its label is then.
DOCKERS = "docker-257b1d14ce1c" + "0123456789abcdef" * 3 + "0123.scope"
CONTAINER = "257b1d14ce1c"

#: Processes that are killed as one.
CROWD = 40

#: container_id and command → kills.
Kills = Counter[tuple[str, str]]


@pytest.fixture
def exporter(tmp_path: Path) -> Exporter:
    """One that has read what happened before the test."""
    return Exporter(tmp_path / "state")


def kills_of_machine() -> int:
    """The kernel's own count."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return int(dict(line.split() for line in lines)["oom_kill"])


def container_of(event: Event) -> str:
    return event["memcg"].replace(f"/{DOCKERS}", CONTAINER)


def of_containers(figures: Figures) -> Kills:
    found: Kills = Counter()
    for (name, labels), count in figures.items():
        if name == "container_oomkills_total":
            found[dict(labels)["container_id"], dict(labels)["command"]] = int(count)
    return found


def check(before: Figures, after: Figures, kills: list[Event], lost: int = 0) -> Kills:
    """The counters rose by these kills and so many lost ones; what is counted beyond the kills."""

    def rose(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    constraints = Counter(event["constraint"] for event in kills)
    for constraint in ("none", "memcg", "cpuset", "mempolicy"):
        labels = {"event": "kill", "constraint": constraint}
        assert rose("gs_oom_events_total", **labels) == constraints[constraint], constraint
    assert total(after, "gs_oom_events_total") - total(before, "gs_oom_events_total") == len(kills)
    assert rose("gs_oom_kills_total", outcome="none") == len(kills)
    assert rose("gs_events_lost_total", source="kernel_log") == lost
    more = of_containers(after)
    more.subtract(of_containers(before))
    more.subtract((container_of(event), event["comm"]) for event in kills)
    return Counter({pair: count for pair, count in more.items() if count})


def check_figures(figures: Figures, event: Event) -> None:
    """The gauges of the last kill, against its line."""
    labels = frozenset({"container_id": container_of(event), "command": event["comm"]}.items())
    for name, key, factor in (
        ("rss_anon_bytes", "anon_kb", 1024),
        ("rss_file_bytes", "file_kb", 1024),
        ("rss_shmem_bytes", "shmem_kb", 1024),
        ("pgtables_bytes", "pgtables_kb", 1024),
        ("total_vm_bytes", "total_vm_kb", 1024),
        ("oom_score_adj", "oom_score_adj", 1),
    ):
        assert figures["container_oomkills_" + name, labels] == int(event[key]) * factor, name


# ---------------------------------------------------------------------------- counting


def test_nothing_of_ours_is_in_this_kernel(exporter: Exporter) -> None:
    assert not [path for path in (REGISTRY, EVENTS, FEATURES) if path.exists()]
    assert "gs_oom" not in Path("/proc/modules").read_text()
    name = "gs_source_readable"
    sources = {dict(labels)["source"]: is_read for (n, labels), is_read in exporter.before.items()
               if n == name}  # fmt: skip
    assert sources == {"kernel": 0, "guards": 1, "kernel_log": 1}


def test_each_kill_counts_once(
    exporter: Exporter, events: Events, memcg: Scene, machine: Scene
) -> None:
    """In groups and in the whole machine; the exporter is started anew after each."""
    counted, figures = kills_of_machine(), exporter.before
    container = memcg.group(called=DOCKERS)
    places = ((memcg, container), (memcg, memcg.group()), (machine, None), (memcg, container))
    for scene, group in places:
        event = scene.kill_of(scene.victim(group=group))
        assert event["constraint"] == scene.constraint
        after = exporter.once()
        assert not check(figures, after, [event])
        check_figures(after, event)
        if group is not None:
            labels = {"container_id": container_of(event), "command": event["comm"]}
            name = "container_oomkills_memory_limit_bytes"
            limit = (group.path / group.version.limit).read_text()
            assert value(after, name, **labels) == int(limit)
        figures = after
    assert exporter.once() == figures
    assert kills_of_machine() - counted == len(events.all()) == len(places)


@pytest.mark.usefixtures("v2")
def test_killed_while_it_counts(exporter: Exporter, events: Events, memcg: Scene) -> None:
    """It follows, and is ended at once when the kills have begun; the next one goes on."""
    counted = kills_of_machine()
    words = [word for word in exporter.words if word != "--once"]
    for _ in range(3):
        group = memcg.group(96 * MB)
        (group.path / "memory.oom.group").write_text("1")
        crowd = memcg.victim(str(CROWD - 1), group=group, name="crowd")
        seen = len(events.all(event="kill"))
        running = subprocess.Popen([*words, "--textfile", "/tmp/gs.prom"], env=exporter.environment)
        try:
            wait_until(Path("/tmp/gs.prom").exists, timeout=60)
            crowd.go()
            wait_until(lambda seen=seen: len(events.all(event="kill")) > seen, timeout=60)
        finally:
            running.kill()
            running.wait()
            Path("/tmp/gs.prom").unlink(missing_ok=True)
        assert crowd.wait() == -9
        wait_until(lambda seen=seen: len(events.all(event="kill")) >= seen + CROWD, timeout=60)
    kills = events.all(event="kill")
    assert len(kills) == 3 * CROWD
    # The kernel kills the chosen one again with the others, where it is still there, and counts it.
    assert len(events.all()) == kills_of_machine() - counted
    assert not check(exporter.before, exporter.once(), kills)


# ---------------------------------------------------------------------------- a gap


@pytest.fixture
def overwrite() -> Iterator[Callable[[], None]]:
    """Fills the kernel log, until nothing is left of what was in it."""
    limit = Path("/proc/sys/kernel/printk_devkmsg")
    before = limit.read_text()
    limit.write_text("on\n")
    yield fill_log
    limit.write_text(before)


def fill_log() -> None:
    log = os.open(KMSG, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.lseek(log, 0, os.SEEK_END)
        os.write(log, b"<15>from here on\n")
        last = number_of(os.read(log, 8192))
        while oldest() <= last:
            for _ in range(100):
                os.write(log, b"<15>" + b"." * 900 + b"\n")
    finally:
        os.close(log)


def oldest() -> int:
    """The number of the first line that is left."""
    log = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            try:
                return number_of(os.read(log, 8192))
            except OSError as error:
                assert error.errno == errno.EPIPE, error
    finally:
        os.close(log)


def number_of(record: bytes) -> int:
    return int(record.split(b",")[1])


def test_a_gap_of_the_log(
    exporter: Exporter,
    memcg: Scene,
    machine: Scene,
    overwrite: Callable[[], None],
    record_property: Callable[[str, object], None],
) -> None:
    """Each kill whose line was overwritten counts as lost, and for the group that it was in if that
    is still there."""
    counted = kills_of_machine()
    container, other, unlimited = memcg.group(called=DOCKERS), memcg.group(), memcg.group(None)
    gone = Group()
    for group in (container, container, other, gone):
        memcg.kill_of(memcg.victim(group=group))
    gone.remove()
    for place in (unlimited, None):
        machine.kill_of(machine.victim(group=place))
    overwrite()
    lost = kills_of_machine() - counted
    assert lost == 6
    kills = [memcg.kill_of(memcg.victim(group=group)) for group in (container, memcg.group())]
    after = exporter.once()
    owned = {(CONTAINER, ""): 2, (other.name, ""): 1, (unlimited.name, ""): 1}
    if cgroups.in_use() is cgroups.V1:
        owned["/", ""] = 1  # version 2 keeps no count of who is in no group
    assert check(exporter.before, after, kills, lost) == owned
    assert exporter.once() == after

    memcg.kill_of(memcg.victim(group=other))
    overwrite()
    again = exporter.once()
    assert check(after, again, [], lost=1) == {(other.name, ""): 1}
    assert kills_of_machine() - counted == lost + len(kills) + 1
    told = f"{lost} kills overwritten: all counted as lost, {sum(owned.values())} in their groups"
    record_property("exporter", told)
