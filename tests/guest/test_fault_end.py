"""Where an asker waits: at the end of its fault, with no lock held that a handler needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import KernelLog, Scene, features, program, register, words_of

pytestmark = pytest.mark.skipif(
    features()["wait"] != "fault-end", reason="this kernel's askers wait in place"
)


#: Blocks so large that no victim meets its OOM in mmap(2), where it waits with the lock held.
LARGE = ("--block", "64M")


@pytest.mark.parametrize("step", ["maps", "smaps", "attach"])
def test_a_handler_looks_into_its_victim(scene: Scene, step: str, tmp_path: Path) -> None:
    """It needs mmap_lock; and to be attached to, a victim must be there to stand still."""
    saved = tmp_path / "saved"
    victim = scene.victim(*LARGE)
    register(victim.pid, program("look_at_victim"), saved, step, grace_ms=8000)
    end = scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "done", "kill")
    assert end["outcome"] == "done"
    about = words_of(saved)
    assert int(about[step]) > 0 and about["end"] == "1"


def test_with_many_threads(scene: Scene, tmp_path: Path) -> None:
    """All of them ask, and all of them leave their faults."""
    saved = tmp_path / "saved"
    victim = scene.victim("--threads", "8", *LARGE)
    register(victim.pid, program("look_at_victim"), saved, "smaps", "maps", grace_ms=8000)
    end = scene.kill_of(victim)
    scene.events.expect(victim.pid, "grace", "done", "kill")
    assert end["outcome"] == "done" and words_of(saved)["end"] == "1"


def test_no_failure_is_reported(scene: Scene, kernel_log: KernelLog) -> None:
    """The allocation fails only so that it can wait elsewhere."""
    victim = scene.victim()
    register(victim.pid, program("do_nothing"))
    scene.kill_of(victim)
    assert not kernel_log.matching("page allocation failure")
    assert not kernel_log.matching("VM_FAULT_OOM")
