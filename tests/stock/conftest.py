"""The surroundings of tests on a kernel that has nothing of ours; their tools are those of the
guest tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "guest"))

import cgroups
import harness

# Outside the guest these files are not for pytest: tests/test_stock_kernel.py runs them there.
collect_ignore_glob = [] if os.environ.get("GS_GUEST") == "1" else ["test_*.py"]


class Stage:
    """Groups and programs for the length of a test."""

    def __init__(self, cleanup: ExitStack) -> None:
        self._cleanup = cleanup

    def group(self) -> harness.Group:
        """A memory cgroup that a victim fills quickly."""
        group = harness.Group()
        self._cleanup.callback(group.remove)
        return group

    def hold(self, mb: int, group: harness.Group) -> harness.Victim:
        """A process that holds so much memory, when it has got it."""
        words = ("--total", f"{mb}M", "--hold")
        victim = harness.Victim(options=words, group=group)
        self._cleanup.callback(victim.close)
        return victim

    def kill(self, group: harness.Group | None) -> int:
        """Have the kernel kill a process, in a group or for want of memory in the machine."""
        victim = harness.Victim(group=group, adj=0 if group else 1000)
        self._cleanup.callback(victim.close)
        victim.go()
        assert victim.wait() == -9
        return victim.pid


@pytest.fixture(scope="session", autouse=True)
def surroundings() -> Iterator[None]:
    """Nothing of ours; groups may have limits; most memory is taken; the console is quiet."""
    assert not list(Path("/proc").glob("graceful_shutdown*")), "not a stock kernel"
    cgroups.enable()
    Path("/proc/sys/vm/oom_dump_tasks").write_text("0")
    Path("/proc/sys/kernel/printk").write_text("1")
    holder = harness.Victim((harness.BALLAST,), name="hold_memory", adj=-1000)
    yield
    holder.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    """An empty one."""
    with ExitStack() as cleanup:
        yield Stage(cleanup)


@pytest.fixture
def kernel_log() -> Iterator[harness.KernelLog]:
    """The kernel log from now on."""
    log = harness.KernelLog()
    yield log
    log.close()
