"""The guest tests' surroundings: what each test gets, and what must hold after it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

IN_GUEST = os.environ.get("GS_GUEST") == "1"

# Outside the guest these files are not for pytest: tests/test_guest.py runs them in a machine.
collect_ignore_glob = [] if IN_GUEST else ["test_*.py"]

if IN_GUEST:
    import cgroups
    import detectors
    import harness
    import logged
    import splats
    from harness import Events, KernelLog, Scene

    #: Else all that it tells of an OOM is in its log.
    HAS_GS = harness.REGISTRY.exists()

    @pytest.fixture(scope="session", autouse=True)
    def memory_controller() -> None:
        """Groups below the root may have limits."""
        cgroups.enable()
        if os.environ.get("GS_CGROUP") == "v1":
            cgroups.move_to_v1()
        Path("/proc/sys/vm/oom_dump_tasks").write_text("0")  # hundreds of lines on a serial line
        # Or the harness is an asker itself in a global OOM, and waits for the grace like the rest.
        ctypes.CDLL(None).mlockall(1 | 2)  # MCL_CURRENT | MCL_FUTURE

    @pytest.fixture(scope="session")
    def whole_log() -> Iterator[KernelLog]:
        """The kernel log, whose news each test looks through when it is over."""
        log = KernelLog(from_boot=True)
        yield log
        log.close()

    @pytest.fixture(scope="session", autouse=True)
    def all_in_all(memory_controller: None, whole_log: KernelLog) -> Iterator[None]:
        """The kernel booted without a splat; after all tests nothing has leaked."""
        booted = splats.report(whole_log.news())
        assert not booted, f"in the kernel log of the boot:\n{booted}"
        detectors.forget_old_leaks()
        yield
        leaks = detectors.leaks()
        late = splats.report([line for line in whole_log.news() if "suspected mem" not in line])
        assert not leaks, "kmemleak, after all tests:\n" + "\n".join(leaks[:5])
        assert not late, f"in the kernel log after all tests:\n{late}"
        assert detectors.lockdep_is_on(), "lockdep has been off since some report before"
        print(f"no leak and no splat after all tests; detectors: {detectors.names() or 'none'}")

    @pytest.fixture(scope="session", autouse=True)
    def ballast(all_in_all: None) -> Iterator[None]:
        """Most of the memory is taken already."""
        holder = harness.Victim((harness.BALLAST,), name="hold_memory", adj=-1000)
        yield
        holder.close()

    @pytest.fixture(scope="session", autouse=True)
    def usual_grace() -> Iterator[None]:
        """The kernel's own default, or on a slower kernel as much as that is worth."""
        if harness.SLOWER == 1 or not HAS_GS:
            yield
            return
        with harness.sysctl("grace_ms", harness.GRACE_MS):
            yield

    def entries() -> list[str]:
        """What is registered."""
        return harness.registry() if HAS_GS else []

    @pytest.fixture(autouse=True)
    def after_each(ballast: None, whole_log: KernelLog) -> Iterator[None]:
        """No splat in the kernel log, no process left behind, no entry left in the registry."""
        before = harness.pid_numbers()
        yield
        left: dict[int, str] = {}
        deadline = time.monotonic() + 5 * harness.SLOWER
        while time.monotonic() < deadline:
            harness.reap_all()
            left = harness.processes(but=before)
            if not left and not entries():
                break
            time.sleep(0.05)
        for pid in left:
            harness.kill(pid)
        found, kept = splats.report(whole_log.news()), entries()
        assert not found, f"in the kernel log:\n{found}"
        assert not left, f"processes were left behind: {left}"
        assert not kept, f"entries of dead processes were left behind: {kept}"

    @pytest.fixture
    def events() -> Iterator[Events]:
        """The event stream from now on; on a stock kernel the kills in its log."""
        stream = Events() if HAS_GS else logged.Events()
        yield stream
        stream.close()

    @pytest.fixture
    def swap() -> Iterator[None]:
        """Swap, for the length of the test; asked for before the scene, so taken away after it."""
        if not Path("/dev/vdc").exists():
            pytest.skip("the machine has no disk for swap")
        subprocess.run(["swapon", "/dev/vdc"], check=True)
        yield
        subprocess.run(["swapoff", "/dev/vdc"], check=True)

    @pytest.fixture
    def v2() -> None:
        """For tests of what only version 2 of memory cgroups has."""
        if cgroups.in_use() is not cgroups.V2:
            pytest.skip("only version 2 of memory cgroups has that")

    @pytest.fixture
    def kernel_log() -> Iterator[KernelLog]:
        """The kernel log from now on."""
        log = KernelLog()
        yield log
        log.close()

    @pytest.fixture(params=["memcg", "global"])
    def scene(request: pytest.FixtureRequest, events: Events) -> Iterator[Scene]:
        """Each test that asks for it runs twice: under a memcg OOM and under a global one."""
        with closing(Scene(request.param, events)) as scene:
            yield scene

    @pytest.fixture
    def memcg(events: Events) -> Iterator[Scene]:
        """A scene of memory cgroups only."""
        with closing(Scene("memcg", events)) as scene:
            yield scene

    @pytest.fixture
    def machine(events: Events) -> Iterator[Scene]:
        """A scene of the whole machine only."""
        with closing(Scene("global", events)) as scene:
            yield scene
