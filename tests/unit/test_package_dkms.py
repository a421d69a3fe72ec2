"""The module's Debian package, made and looked into with dpkg's own tool."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from provisioning import package
from provisioning.kernel import module, versions

pytestmark = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg here")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dkms")
    deb = package.dkms(place)
    subprocess.run(["dpkg-deb", "-R", deb, place / "root"], check=True)
    return place / "root"


def test_it_holds_the_sources_as_they_are(unpacked: Path) -> None:
    place = unpacked / f"usr/src/gs-oom-{module.version()}"
    there = {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert there == module.sources()
    for name, content in there.items():
        assert (versions.PATCHES_DIR / name).read_bytes() == content


def test_all_that_kbuild_names_is_there(unpacked: Path) -> None:
    place = unpacked / f"usr/src/gs-oom-{module.version()}"
    kbuild = (place / "module/Kbuild").read_text()
    (parts,) = re.findall(r"^parts := (.*)$", kbuild, re.MULTILINE)
    for part in parts.split():
        assert (place / f"files/mm/graceful_shutdown_{part}.c").exists()


def test_one_version(unpacked: Path) -> None:
    core = (versions.PATCHES_DIR / "files/mm/graceful_shutdown.h").read_text()
    assert f'#define GS_VERSION\t\t"{module.version()}"' in core
    assert f"Version: {module.version()}\n" in (unpacked / "DEBIAN/control").read_text()


@pytest.mark.parametrize("script", ["postinst", "prerm"])
def test_its_scripts_are_shell(unpacked: Path, script: str) -> None:
    path = unpacked / "DEBIAN" / script
    assert path.stat().st_mode & 0o111
    subprocess.run(["sh", "-n", path], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", path], check=True)
