"""The demonstration on each series whose sources are at hand, as `./dev demo` plays and judges it.

Not only on the series of the quick tier: the kernels differ most where an OOM takes its way.
"""

from __future__ import annotations

import pytest

from provisioning import config
from provisioning.vm.demo import run_demo
from tests.kernels import MODULE, USUAL, cost_of, kernel_or_skip

pytestmark = pytest.mark.guest


@pytest.mark.parametrize("flavour", [USUAL, MODULE])
@pytest.mark.parametrize("series", config.SERIES)
def test_the_demonstration(series: str, flavour: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A memcg OOM and a global one: the handler ran before the kill, and the verdict says so."""
    status = run_demo(kernel_or_skip(series, flavour), cost=cost_of(series, flavour))
    told = capsys.readouterr().out
    assert status == 0, told
    assert told.count("event=grace") == told.count("event=kill") == 2, told
    assert told.splitlines()[-1].startswith("VERDICT: the handler ran before the kill"), told
