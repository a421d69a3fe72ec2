"""Holds every backend to its contract (tests/backends) in virtual machines of Debian's own kernel.

The kernel backend with the module, the two on memory cgroups without it. GS_GUEST_BACKENDS names
those that are tested, or is `all`; usually it is the one that the machine itself may not have.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from provisioning.kernel import versions
from tests.kernels import MODULE, chosen_series, cost_of, kernel_or_skip
from tests.test_guest import PYTEST, run_and_report

pytestmark = pytest.mark.guest

TESTS = Path(__file__).parent / "backends"

#: What is done before, by the backend that is tested then. The module makes room for the others;
#: version 1 is mounted where no group of version 2 has been made yet.
WAYS = {
    "kernel": "true",
    "cgroup2": "rmmod gs_oom",
    "cgroup1": "rmmod gs_oom; mkdir /run/memory; mount -t cgroup -o memory memory /run/memory",
}

#: What GS_GUEST_BACKENDS asks for.
ASKED = os.environ.get("GS_GUEST_BACKENDS") or "cgroup2"
CHOSEN = list(WAYS) if ASKED == "all" else ASKED.split()

#: How often things are done there; the usual numbers are in the tests.
PASSED_ON = ("GS_IN_A_ROW", "GS_RACES", "GS_FILES_GB")

#: Seconds, emulated on a busy host.
DEADLINE = 1500.0


@pytest.mark.parametrize("backend", CHOSEN)
@pytest.mark.parametrize("series", chosen_series())
def test_the_contract(series: str, backend: str) -> None:
    """All of it passes in a machine of Debian's own kernel."""
    if not versions.series(series).stock:
        pytest.skip(f"Debian has no kernel of {series}")
    kernel = kernel_or_skip(series, MODULE)
    command = shlex.join([*PYTEST, "--import-mode=importlib", "tests/backends"])
    settings = f"GS_BACKENDS={backend}"
    settings += "".join(f" {name}={os.environ[name]}" for name in PASSED_ON if name in os.environ)
    run_and_report(
        kernel,
        ["sh", "-c", f"{WAYS[backend]} && {settings} PYTHONPATH=. exec {command}"],
        extra={"tests/backends": TESTS},
        timeout=DEADLINE,
        cost=cost_of(series, MODULE),
    )
