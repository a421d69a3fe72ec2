"""gs on other Pythons than this one: its unit tests, in root file systems of other Debians."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from provisioning import commands, rootfs
from provisioning.config import REPO

#: The oldest that Debian still has, and the newest that it has released.
RELEASES = {"bullseye": (3, 9), "trixie": (3, 13)}

PACKAGES = ("python3-pytest", "python3-hypothesis", "gcc", "libc6-dev", "make", "man-db", "procps")

#: What the tests look at beside gs.
FILES = ("gs", "tests", "test_programs", "docs", "pyproject.toml", "README.md")


@pytest.mark.parametrize("release", RELEASES)
def test_units_of_gs(release: str, tmp_path: Path) -> None:
    with rootfs.unpacked(tmp_path / "root", release, PACKAGES) as root:
        work = root / "work"
        work.mkdir()
        for name in FILES:
            source = REPO / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, work / name)
        check = f"import sys; assert sys.version_info[:2] == {RELEASES[release]}, sys.version"
        # The oldest of them has a pytest that cannot read this project's conftest.
        line = "python3 -m pytest -p no:cacheprovider --noconftest -q tests/unit/test_gs_*.py"
        script = f"cd /work && python3 -c '{check}' && exec {line}"
        done = commands.run(rootfs.within(root, "sh", "-c", script), check=False, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    print(done.stdout.splitlines()[-1])
