"""The kselftest of the overlay: built with the kernel's own makefile, run on the patched kernel."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from provisioning import commands
from provisioning.kernel import patches, source
from provisioning.vm.session import guest_run
from tests.kernels import chosen_series, kernel_or_skip, sources_of

pytestmark = pytest.mark.guest

SELFTESTS = "tools/testing/selftests"
NAME = "graceful_shutdown"
TESTS = 6


@pytest.mark.parametrize("series", chosen_series())
def test_kselftest(series: str, tmp_path: Path) -> None:
    """KTAP's plan, one line a test, none of them "not ok"."""
    kernel = kernel_or_skip(series)
    program = build(source.locate(series, sources_of(series)).tree(), tmp_path)
    result = guest_run(kernel, [f"/gs/{NAME}_test"], extra={f"{NAME}_test": program})
    assert result.exit_status == 0, result.output
    lines = result.output.splitlines()
    assert f"1..{TESTS}" in lines
    assert [line.split()[:2] for line in lines if line.startswith(("ok", "not ok"))] == [
        ["ok", str(number)] for number in range(1, TESTS + 1)
    ]


def build(tree: Path, place: Path) -> Path:
    """As `make -C tools/testing/selftests` does it, except that a warning is an error."""
    for path in (tree / SELFTESTS).iterdir():
        if path.suffix in (".h", ".mk"):
            shutil.copy(path, place)
    shutil.copytree(patches.OVERLAY / SELFTESTS / NAME, place / NAME)
    flags = f"-Wall -Werror -O2 -I{tree}/tools/include/uapi"
    commands.run(["make", "-C", place / NAME, f"CFLAGS={flags}"], timeout=300)
    return place / NAME / f"{NAME}_test"
