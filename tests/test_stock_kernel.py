"""Runs tests/stock in virtual machines of Debian's own kernels, with nothing of ours in them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from provisioning.errors import ProvisioningError
from provisioning.kernel import versions
from provisioning.vm.session import guest_run
from tests.kernels import MODULE, chosen_series, cost_of, kernel_or_skip
from tests.test_guest import report

pytestmark = pytest.mark.guest

TESTS = Path(__file__).parent / "stock"

#: Megabytes, and seconds, emulated on a busy host.
MEMORY, DEADLINE = 768, 900.0

COMMAND = (
    "rmmod gs_oom && exec python3 -m pytest -p no:cacheprovider -v --tb=short "
    "--junit-xml=/out/junit.xml -o junit_family=xunit1 tests/stock"
)


@pytest.mark.parametrize("series", chosen_series())
def test_in_the_guest(series: str) -> None:
    """All of them pass in a machine of Debian's kernel, after the module has gone."""
    if not versions.series(series).stock:
        pytest.skip(f"Debian has no kernel of {series}")
    extra = {"tests/stock": TESTS}
    library = importlib.util.find_spec("prometheus_client")
    if library is not None and library.origin is not None:
        extra["prometheus_client"] = Path(library.origin).parent
    try:
        result = guest_run(
            kernel_or_skip(series, MODULE),
            ["sh", "-c", COMMAND],
            memory_mb=MEMORY,
            extra=extra,
            timeout=DEADLINE,
            cost=cost_of(series, MODULE),
        )
    except ProvisioningError as error:
        pytest.fail(str(error), pytrace=False)
    report(result)
