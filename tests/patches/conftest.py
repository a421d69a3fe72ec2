"""Kernel sources at hand: Debian's, and those that the tester supplies."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioning import care, config
from provisioning.errors import DownloadFailed
from provisioning.kernel.source import Source


@pytest.fixture(params=config.SERIES)
def series(request: pytest.FixtureRequest) -> str:
    """Each series in turn."""
    return str(request.param)


@pytest.fixture
def sources(series: str) -> Source:
    """Sources of the series, or a visible skip with what would be needed."""
    variable = "GS_KERNEL_SOURCE_" + series.replace(".", "_")
    try:
        found = care.at_hand(series)
    except DownloadFailed as error:
        pytest.skip(f"no sources of {series}: {error}")
    if found is None:
        pytest.skip(f"no sources of {series}: Debian has none, set {variable} to a tree")
    return found


@pytest.fixture
def pristine(sources: Source) -> Path:
    """The unpacked tree."""
    return sources.tree()
