"""Another architecture: the core built in and as a module, on emulated machines with arm64 kernels.

With GS_ARM64 set, as `./dev test --all` does; it takes a cross-compiler and qemu-system-arm. All
other guest tests run there, too: `GS_CONFIG=arm64 pytest tests/test_guest.py`.
"""

from __future__ import annotations

import os

import pytest

from tests.kernels import ARM, ARM_MODULE, QUICK
from tests.test_guest import run

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(not os.environ.get("GS_ARM64"), reason="only with GS_ARM64"),
]


@pytest.mark.parametrize("file", ["test_handlers.py", "test_registry.py", "test_rules.py"])
@pytest.mark.parametrize("flavour", [ARM, ARM_MODULE])
def test_on_arm64(flavour: str, file: str) -> None:
    """Handlers before kills, in memory cgroups and in the whole machine."""
    run(QUICK, flavour, file)


def test_the_fault_ends_there_too() -> None:
    """Built in, an asker waits where its fault ends: how that is reached differs."""
    run(QUICK, ARM, "test_fault_end.py")


def test_the_module_comes_and_goes() -> None:
    """Debian's arm64 kernels do not tell the names of their data."""
    run(QUICK, ARM_MODULE, "test_module.py")
