"""The Debian packages, made and looked into with dpkg's own tool."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioning import package
from provisioning.config import REPO
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


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tool")
    subprocess.run(["dpkg-deb", "-R", package.tool(place), place / "root"], check=True)
    return place / "root"


def test_the_command_works_where_it_is_unpacked(tool: Path) -> None:
    libraries = tool / package.LIBRARIES
    there = {path.relative_to(libraries) for path in (libraries / "gs").rglob("*.py")}
    assert there == {path.relative_to(REPO) for path in (REPO / "gs").rglob("*.py")}
    text = (tool / "usr/bin/gs-oom").read_text().replace("import sys\n", "import sys\n\nPATH\n", 1)
    script = tool / "gs-oom"
    script.write_text(text.replace("PATH", f"sys.path.insert(0, {str(libraries)!r})"))
    command = ["python3", "-I", script, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"gs-oom {package._version()}\n"
    assert not (tool / "usr/bin/gs").exists()


def test_its_settings_are_a_conffile_and_change_nothing(tool: Path) -> None:
    """Each line is a comment, names a setting that the core has, and says its default."""
    (name,) = (tool / "DEBIAN/conffiles").read_text().split()
    lines = (tool / name.lstrip("/")).read_text().splitlines()
    assert all(line.startswith("#") for line in lines)
    core = (versions.PATCHES_DIR / "files/mm/graceful_shutdown.c").read_text()
    settings = [line for line in lines if " = " in line]
    assert len(settings) == 6
    for line in settings:
        key, value = re.fullmatch(r"#-vm\.graceful_shutdown_(\w+) = (\d+)", line).groups()  # type: ignore[union-attr]
        assert re.search(rf"^int gs_sysctl_{key}(?: = {value})?;$", core, re.MULTILINE)


@pytest.mark.parametrize("make", [package.tool, package.dkms])
def test_the_same_sources_give_the_same_file(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    one, other = make(tmp_path / "1"), make(tmp_path / "2")
    assert one.read_bytes() == other.read_bytes()


SCRIPTS = sorted(package.PACKAGING.glob("*/DEBIAN/p*"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parts[-3]}-{path.name}")
def test_their_scripts_are_shell(path: Path) -> None:
    assert path.stat().st_mode & 0o111
    subprocess.run(["sh", "-n", path], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", path], check=True)
