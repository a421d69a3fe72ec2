"""A handler dumps its victim with gdb, while that waits at the end of its fault.

In a machine of its own: with the kernel's detectors the wait is so long that those who ask after it
have no right to another for some minutes.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import MB, SLOWER, Scene, register, sysctl, wait_for_reserve
from marks import needs_fault_end

pytestmark = needs_fault_end

#: Blocks so large that no victim meets its OOM in mmap(2), where it waits with the lock held.
LARGE = ("--block", "64M")

#: What the gcore that comes with gdb does.
GCORE = """#!/bin/sh
exec gdb --nx --batch --readnever -p "$GS_VICTIM_PID" -ex "gcore $1" -ex detach
"""

#: Set aside for it where the whole machine is out of memory: gdb takes more than the 8 MB that are
#: usual in a machine as small as this, the most where all of it must be read from the disk again.
RESERVE_KB = 64 << 10

#: Emulated, on a busy host, it took 15 s.
GRACE_MS = int(60_000 * SLOWER)

#: What the victim writes at the beginning of each page: a mark, and the page's number.
MARK_BYTES = 16
MARK = re.compile(re.escape((0x6773206F6F6D2121).to_bytes(8, "little")) + b"(.{8})", re.DOTALL)

#: The mark stands in the victim's own code, too, and there no number follows.
MOST = 1 << 24


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """A directory that takes no memory, as one in /tmp would."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_a_handler_dumps_its_victim_with_gdb(
    scene: Scene, on_disk: Path, record_property: Callable[[str, object], None]
) -> None:
    """All that the victim had written is in the core file."""
    gcore, core = on_disk / "gcore", on_disk / "core"
    gcore.write_text(GCORE)
    gcore.chmod(0o755)
    victim = scene.victim(*LARGE)
    with sysctl("reserve_kb", RESERVE_KB), sysctl("max_grace_ms", GRACE_MS):
        register(victim.pid, gcore, core, grace_ms=GRACE_MS)
        wait_for_reserve()
        scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "done", "kill")
    grace, done, _ = scene.events.all(pid=victim.pid)
    assert done["exit_status"] == "0"
    told = f"{core.stat().st_size >> 20} MB in {int(done['elapsed_us']) / 1e6:.1f} s"
    record_property(f"gcore of a {scene.kind} OOM's victim", told)
    found = pages_in(core)
    assert sorted(found) == list(range(len(found)))
    assert 0.95 < 4 * len(found) / int(grace["rss_kb"]) < 1.05  # whose count lags behind a little


def pages_in(core: Path) -> list[int]:
    """The numbers of the marked pages in the file, in the file's order. (Not mapped: all memory of
    this process is locked, and there is less of it than the file has.)"""
    numbers, rest = [], b""
    with core.open("rb") as file:
        while block := rest + file.read(MB):
            found = (int.from_bytes(match[1], "little") for match in MARK.finditer(block))
            numbers += [number for number in found if number < MOST]
            if len(block) < MB:
                break
            rest = block[1 - MARK_BYTES :]
    return numbers
