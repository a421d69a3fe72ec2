"""Where an asker waits: at the end of its fault, with no lock held that a handler needs."""

from __future__ import annotations

import mmap
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import (
    MB,
    SLOWER,
    KernelLog,
    Scene,
    program,
    register,
    wait_until,
    words_of,
)
from marks import needs_fault_end

pytestmark = needs_fault_end


#: Blocks so large that no victim meets its OOM in mmap(2), where it waits with the lock held.
LARGE = ("--block", "64M")

#: As long as a slow kernel needs, and short enough for three of them in one budget of waiting.
GRACE_MS = int(min(8000 * SLOWER, 25_000))


@pytest.mark.parametrize("step", ["maps", "smaps", "attach"])
def test_a_handler_looks_into_its_victim(scene: Scene, step: str, tmp_path: Path) -> None:
    """It needs mmap_lock; and to be attached to, a victim must be there to stand still."""
    saved = tmp_path / "saved"
    victim = scene.victim(*LARGE)
    register(victim.pid, program("look_at_victim"), saved, step, grace_ms=GRACE_MS)
    end = scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "done", "kill")
    assert end["outcome"] == "done"
    about = words_of(saved)
    assert int(about[step]) > 0 and about["end"] == "1"


def test_with_many_threads(scene: Scene, tmp_path: Path) -> None:
    """All of them ask, and all of them leave their faults."""
    saved = tmp_path / "saved"
    victim = scene.victim("--threads", "8", *LARGE)
    register(victim.pid, program("look_at_victim"), saved, "smaps", "maps", grace_ms=GRACE_MS)
    end = scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "done", "kill")
    assert end["outcome"] == "done" and words_of(saved)["end"] == "1"


TRACING = Path("/sys/kernel/debug/tracing")

#: The beginning of all that is tried before an OOM, of either kind.
RECLAIM = [
    TRACING / "events/vmscan" / f"mm_vmscan_{kind}reclaim_begin" for kind in ("direct_", "memcg_")
]

#: Whose trace lines also say who asked when a grace began.
GRACE = TRACING / "events/oom/graceful_shutdown"

#: "  comm-123   [001] d..2.   12.345678: name: ..."
TRACED = re.compile(
    r"-(\d+) +\[\d+\] \S+ +(\d+\.\d+): (mm_vmscan_\w+begin|graceful_shutdown): (.*)"
)


@dataclass(frozen=True)
class Traced:
    """What the trace says of one process: when it began to reclaim, and when a grace began for
    which it had asked, in seconds of CLOCK_BOOTTIME."""

    reclaims: list[float]
    graces: list[float]


@pytest.fixture
def traced() -> Iterator[Callable[[int], Traced]]:
    """To look at what a process did."""

    def of(pid: int) -> Traced:
        text = (TRACING / "trace").read_text(errors="replace")
        found = Traced([], [])
        for task, at, event, words in TRACED.findall(text):
            if int(task) == pid and event != GRACE.name:
                found.reclaims.append(float(at))
            elif int(task) == pid and "event=grace " in words:
                found.graces.append(float(at))
        return found

    (TRACING / "trace_clock").write_text("boot")
    (TRACING / "trace").write_text("")
    for event in (*RECLAIM, GRACE):
        (event / "enable").write_text("1")
    yield of
    for event in (*RECLAIM, GRACE):
        (event / "enable").write_text("0")


#: In mmap(2) since Linux 6.11; this Python does not know it.
MAP_DROPPABLE = 0x08


def knows_droppable_memory() -> bool:
    """Whether this kernel has MAP_DROPPABLE, which is a type of mapping, not a flag."""
    try:
        mmap.mmap(-1, mmap.PAGESIZE, flags=MAP_DROPPABLE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return False
    return True


needs_droppable_memory = pytest.mark.skipif(
    not knows_droppable_memory(), reason="this kernel has no MAP_DROPPABLE"
)


@pytest.mark.parametrize(
    "shape",
    ["touch", "map", "spread", pytest.param("droppable", marks=needs_droppable_memory)],
)
def test_the_asker_does_not_try_again_meanwhile(
    scene: Scene, shape: str, traced: Callable[[int], Traced]
) -> None:
    """It would take what the handler has just read. A fault in a file is tried again by itself
    where a page could not be had; one in droppable memory does not say that there was none."""
    scene.bystander()
    for _ in range(3):
        victim = scene.victim("--shape", shape, *LARGE)
        register(victim.pid, program("never_ends"), grace_ms=int(1000 * SLOWER))
        scene.kill_of(victim)
        begin, end = (
            int(scene.events.wait(event=name, pid=victim.pid)["time_ns"]) / 1e9
            for name in ("grace", "timeout")
        )
        found = traced(victim.pid)
        # Where somebody else had asked, it was still trying.
        if found.graces:
            break
    assert found.graces
    assert [at for at in found.reclaims if at < begin]
    meanwhile = [at for at in found.reclaims if begin < at < end]
    assert not meanwhile, f"in the grace from {begin} to {end}: {found}"


def test_an_asker_whose_page_is_in_swap(swap: None, v2: None, memcg: Scene, tmp_path: Path) -> None:
    """Such a fault would go on with the pages around it, and wait for them where it stands."""
    saved = tmp_path / "saved"
    group = memcg.group(32 * MB, swap=8 * MB)
    victim = memcg.victim("--shape", "again", "--block", "36M", group=group)
    register(victim.pid, program("look_at_victim"), saved, "attach", grace_ms=GRACE_MS)
    victim.go()
    in_swap = group.path / "memory.swap.current"
    wait_until(lambda: group.usage() + int(in_swap.read_text()) > 36 * MB, timeout=60)
    limit = group.path / group.version.limit
    shrink = subprocess.Popen(["sh", "-c", f"echo 26M >{limit}"])
    assert victim.wait() == -signal.SIGKILL
    shrink.wait()
    end = memcg.events.wait(event="kill", pid=victim.pid, timeout=5)
    memcg.events.expect(victim.pid, "grace", "done", "kill")
    assert end["outcome"] == "done" and words_of(saved)["end"] == "1"


def test_no_failure_is_reported(scene: Scene, kernel_log: KernelLog) -> None:
    """The allocation fails only so that it can wait elsewhere."""
    victim = scene.victim()
    register(victim.pid, program("do_nothing"))
    scene.kill_of(victim)
    assert not kernel_log.matching("page allocation failure")
    assert not kernel_log.matching("VM_FAULT_OOM")
