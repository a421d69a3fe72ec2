"""Which patched kernels the tests that need a machine run on, and how they get them.

GS_SERIES names the series (default: the one of the quick tier; `all` for all of them). 5.4 needs
a source tree of one's own (GS_KERNEL_SOURCE_5_4); without it its tests are skipped, visibly.
GS_KERNEL_IMAGE_6_1 (and so on) names a bzImage to use as it is, for work on the kernel.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import pytest

from provisioning import config
from provisioning.kernel import build, source, versions

#: Series of the quick tier: packaged by Debian 12, so that it is there everywhere.
QUICK = "6.1"


def chosen_series() -> list[str]:
    """What GS_SERIES asks for."""
    asked = os.environ.get("GS_SERIES", QUICK)
    return list(config.SERIES) if asked == "all" else asked.replace(",", " ").split()


def kernel_or_skip(series: str) -> Path:
    """The image of a patched kernel, built if need be; a skip that says what is missing."""
    image = os.environ.get("GS_KERNEL_IMAGE_" + series.replace(".", "_"))
    if image:
        return Path(image)
    return _built(series, sources_of(series))


def sources_of(series: str) -> str:
    """Where its sources are to be had without kernel.org; a skip that says what is missing."""
    tree = config.source_from_environment(series)
    if tree is None and versions.series(series).debian is None:
        variable = "GS_KERNEL_SOURCE_" + series.replace(".", "_")
        pytest.skip(f"no sources of {series} here: set {variable} to a tree or a tarball")
    return tree or "debian"


@lru_cache(maxsize=None)
def _built(series: str, spec: str) -> Path:
    return build.build(series, source=source.locate(series, spec)).image
