"""The guest tests' surroundings: what each test gets, and what must hold after it."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

IN_GUEST = os.environ.get("GS_GUEST") == "1"

# Outside the guest these files are not for pytest: tests/test_guest.py runs them in a machine.
collect_ignore_glob = [] if IN_GUEST else ["test_*.py"]

if IN_GUEST:
    import harness
    from harness import Events, KernelLog, Scene

    @pytest.fixture(scope="session", autouse=True)
    def memory_controller() -> None:
        """Groups below the root may have limits."""
        (harness.CGROUPS / "cgroup.subtree_control").write_text("+memory")
        Path("/proc/sys/vm/oom_dump_tasks").write_text("0")  # hundreds of lines on a serial line
        # Or the harness is an asker itself in a global OOM, and waits for the grace like the rest.
        ctypes.CDLL(None).mlockall(1 | 2)  # MCL_CURRENT | MCL_FUTURE

    @pytest.fixture(scope="session", autouse=True)
    def ballast(memory_controller: None) -> Iterator[None]:
        """Most of the memory is taken already."""
        holder = harness.Victim((harness.BALLAST,), name="hold_memory", adj=-1000)
        yield
        holder.close()

    @pytest.fixture(autouse=True)
    def after_each(request: pytest.FixtureRequest) -> Iterator[None]:
        """No splat in the kernel log, no process left behind, no entry left in the registry."""
        log = KernelLog()
        before = harness.pid_numbers()
        yield
        left: dict[int, str] = {}
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            harness.reap_all()
            left = harness.processes(but=before)
            if not left and not harness.registry():
                break
            time.sleep(0.05)
        for pid in left:
            harness.kill(pid)
        splats, entries = log.splats(), harness.registry()
        log.close()
        assert not splats, "the kernel log: " + " | ".join(splats[:5])
        assert not left, f"processes were left behind: {left}"
        assert not entries, f"entries of dead processes were left behind: {entries}"

    @pytest.fixture
    def events() -> Iterator[Events]:
        """The event stream from now on."""
        stream = Events()
        yield stream
        stream.close()

    @pytest.fixture
    def kernel_log() -> Iterator[KernelLog]:
        """The kernel log from now on."""
        log = KernelLog()
        yield log
        log.close()

    @pytest.fixture(params=["memcg", "global"])
    def scene(request: pytest.FixtureRequest, events: Events) -> Iterator[Scene]:
        """Each test that asks for it runs twice: under a memcg OOM and under a global one."""
        scene = Scene(request.param, events)
        try:
            yield scene
        finally:
            scene.close()

    @pytest.fixture
    def memcg(events: Events) -> Iterator[Scene]:
        """A scene of memory cgroups only."""
        scene = Scene("memcg", events)
        try:
            yield scene
        finally:
            scene.close()
