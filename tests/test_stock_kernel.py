"""Runs tests/guest/stock, and some of `gs ps`, in machines of Debian's own kernel, with nothing of
ours in it: the module that comes with it is taken out before."""

from __future__ import annotations

import os
import shlex

import pytest

from provisioning.kernel import versions
from tests.kernels import MODULE, chosen_series, cost_of, kernel_or_skip
from tests.test_guest import PYTEST, exporter_library, run_and_report

pytestmark = pytest.mark.guest

PS = "tests/guest/test_ps.py"

#: Of `gs ps` what differs most from each other; tests/test_guest.py runs all of it.
CHOSEN = (
    "tests/guest/stock",
    f"{PS}::test_in_a_group[alone]",
    f"{PS}::test_in_a_group[the_smaller_for_its_adj]",
    f"{PS}::test_in_a_group[the_large_one_is_exempt]",
    f"{PS}::test_in_a_group[across_children]",
    f"{PS}::test_the_machine_takes_the_largest",
    f"{PS}::test_scores_are_those_of_the_kernel",
)

#: Seconds, emulated on a busy host.
DEADLINE = 900.0


@pytest.mark.parametrize("series", chosen_series())
def test_a_stock_kernel(series: str) -> None:
    """All of it passes in a machine of Debian's own kernel."""
    if not versions.series(series).stock:
        pytest.skip(f"Debian has no kernel of {series}")
    kernel = kernel_or_skip(series, MODULE)
    settings = f"GS_CGROUP={os.environ.get('GS_CGROUP', '')}"
    command = shlex.join([*PYTEST, *CHOSEN])
    run_and_report(
        kernel,
        ["sh", "-c", f"rmmod gs_oom && {settings} exec {command}"],
        extra=exporter_library(),
        memory_mb=640,
        timeout=DEADLINE,
        cost=cost_of(series, MODULE),
    )
