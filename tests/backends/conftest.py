"""Which backends the contract is tested against: all that this machine has, or those that
GS_BACKENDS names, which then must be there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from world import IN_GUEST, World

from gs import backends
from gs.errors import GsError


@pytest.fixture(scope="session", autouse=True)
def ready() -> None:
    """The programs are built, and groups below the root may have limits."""
    if not IN_GUEST:
        make = ["make", "-s", "-C", str(Path(__file__).parents[2] / "test_programs")]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        return
    # The guest's init cannot be killed, and who comes from it neither.
    Path("/proc/self/oom_score_adj").write_text("0")


def _usable(name: str) -> str:
    """Why not, or nothing."""
    if os.geteuid() != 0:
        return "takes root"
    try:
        backends.select(name)
    except GsError as error:
        return str(error)
    return ""


ASKED = os.environ.get("GS_BACKENDS", "").split()
REASONS = {name: _usable(name) for name in backends.NAMES if name != "auto"}
HERE = ASKED or [name for name, reason in REASONS.items() if not reason]


def pytest_report_header() -> list[str]:
    """Which backends are tested here, and why not the others."""
    return [f"backend {name}: {reason or 'tested'}" for name, reason in REASONS.items()]


@pytest.fixture(params=HERE or ["none"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A world of one backend, in which nothing may be left afterwards."""
    if not HERE:
        pytest.skip("; ".join(f"{name}: {reason}" for name, reason in REASONS.items()))
    assert not REASONS[request.param]
    world = World(request.param, tmp_path)
    try:
        yield world
    finally:
        world.close()
    world.nothing_is_left()


@pytest.fixture
def guarded(world: World) -> World:
    """A world with guards."""
    if not world.has_guards:
        pytest.skip("the kernel backend has no guards")
    return world
