"""Which patched kernels the tests that need a machine run on, and how they get them.

GS_SERIES names the series (default: the one of the quick tier; `all` for all of them), GS_CONFIG
the flavours (default: guest; `all` for all of these but kasan and arm64's):

  debug         with the kernel's own detectors
  kasan         with that one alone, for what is done a million times
  module        Debian's own kernels as they are, with the module; where Debian has none, one of the
                series' own sources
  module-debug  the latter, with the detectors
  arm64         cross-compiled, and emulated
  arm64-module  Debian's own kernels for arm64, with the module

5.4 needs a source tree of one's own (GS_KERNEL_SOURCE_5_4); without it its tests are skipped,
visibly.
GS_KERNEL_IMAGE_6_1 (and so on; GS_KERNEL_IMAGE_6_1_DEBUG, GS_KERNEL_IMAGE_6_1_UNPATCHED) names a
bzImage to use as it is, for work on the kernel.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pytest

from provisioning import arch, config
from provisioning.kernel import build, source, stock, versions
from provisioning.kernel.versions import Cost
from provisioning.vm import stock as stock_vm

#: Series of the quick tier: packaged by Debian 12, so that it is there everywhere.
QUICK = "6.1"

#: The flavour of the quick tier, and all that the guest tests are made for.
USUAL = "guest"
MODULE = "module"
FLAVOURS = (USUAL, "debug", MODULE, "module-debug")

ARM, ARM_MODULE = "arm64", "arm64-module"

#: Unpatched kernels that the module is loaded into, and what they are built as.
MODULAR = {MODULE: "modular", "module-debug": "modular-debug"}

#: Where a flavour of the tests has another name as a configuration.
BUILT_AS = {**MODULAR, ARM: "guest-arm64"}


def chosen_series() -> list[str]:
    """What GS_SERIES asks for."""
    return _chosen("GS_SERIES", QUICK, config.SERIES)


def chosen_flavours() -> list[str]:
    """What GS_CONFIG asks for."""
    return _chosen("GS_CONFIG", USUAL, FLAVOURS)


def _chosen(variable: str, usual: str, every: Sequence[str]) -> list[str]:
    asked = os.environ.get(variable) or usual
    return list(every) if asked == "all" else asked.replace(",", " ").split()


def kernel_or_skip(series: str, flavour: str = USUAL, *, patched: bool = True) -> Path:
    """The image of a kernel, built if need be; a skip that says what is missing."""
    own = [series.replace(".", "_")] + ([] if flavour == USUAL else [flavour.upper()])
    own += [] if patched else ["UNPATCHED"]
    image = os.environ.get("_".join(["GS_KERNEL_IMAGE", *own]))
    if image:
        return Path(image)
    if flavour in MODULAR or flavour == ARM_MODULE:
        return _with_module(series, flavour)
    return _built(series, sources_of(series), flavour, patched)


def cost_of(series: str, flavour: str) -> Cost:
    """What such a kernel takes beyond one of the usual flavour."""
    if flavour in (MODULE, ARM_MODULE) and versions.series(series).stock:
        return stock_vm.COST
    return versions.flavour(BUILT_AS.get(flavour, flavour), series).cost


def sources_of(series: str) -> str:
    """Where its sources are to be had without kernel.org; a skip that says what is missing."""
    tree = config.source_from_environment(series)
    if tree is None and versions.series(series).debian is None:
        variable = "GS_KERNEL_SOURCE_" + series.replace(".", "_")
        pytest.skip(f"no sources of {series} here: set {variable} to a tree or a tarball")
    return tree or "debian"


@lru_cache(maxsize=None)
def _with_module(series: str, flavour: str) -> Path:
    if flavour == ARM_MODULE:
        return stock_vm.bootable(series, arch.ARM64)
    if flavour == MODULE and versions.series(series).stock:
        return stock_vm.bootable(series)
    sources = source.locate(series, sources_of(series))
    return stock_vm.with_module(stock.stand_in(series, MODULAR[flavour], sources))


@lru_cache(maxsize=None)
def _built(series: str, spec: str, flavour: str, patched: bool) -> Path:
    sources = source.locate(series, spec)
    config = BUILT_AS.get(flavour, flavour)
    return build.build(series, source=sources, config=config, patched=patched).image
