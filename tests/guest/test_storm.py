"""Many OOMs in a row in one boot: as many files, as many kills, no splat.

GS_COUNT is their number (default 50), half of them of memory cgroups, half of the whole machine.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness import EVENTS, Events, Scene, parse_event, program, register, words_of

COUNT = int(os.environ.get("GS_COUNT", "50"))


@pytest.mark.parametrize("kind", ["memcg", "global"])
def test_many_in_a_row(kind: str, tmp_path: Path) -> None:
    count = COUNT // 2
    for number in range(count):
        events = Events()
        scene = Scene(kind, events)
        saved = tmp_path / f"saved-{number}"
        try:
            victim = scene.victim("--block", "4M")
            register(victim.pid, program("write_file"), saved, grace_ms=2000)
            scene.kill_of(victim)
            events.expect(victim.pid, "grace", "done", "kill")
            assert words_of(saved)["victim_alive"] == "1", f"OOM {number}"
        finally:
            scene.close()
            events.close()
    assert len(list(tmp_path.glob("saved-*"))) == count


@pytest.mark.skipif(COUNT < 1000, reason="needs GS_COUNT of 1000, to fill the ring of records")
def test_a_reader_that_fell_behind() -> None:
    """Runs after the storm: the oldest record kept is not the first, and 1,024 are there."""
    file = os.open(EVENTS, os.O_RDONLY | os.O_NONBLOCK)
    try:
        lines = os.read(file, 1 << 22).decode().splitlines()
    finally:
        os.close(file)
    assert len(lines) >= 1024
    assert int(parse_event(lines[0])["seq"]) > 1
