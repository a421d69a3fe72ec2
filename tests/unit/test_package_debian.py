"""The Debian packages, made and looked into with dpkg's own tool."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gs import cli
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


def test_the_exporters_unit(tool: Path) -> None:
    """It calls a command that is ours; what it may do is tried in tests/vm and tests/guest."""
    (unit,) = (tool / "usr/lib/systemd/system").iterdir()
    settings = dict(line.split("=", 1) for line in unit.read_text().splitlines() if "=" in line[1:])
    program, *words = settings["ExecStart"].split()
    assert (tool / program.lstrip("/")).exists()
    top, _ = cli.parsers()
    assert top.parse_args(words).command == "exporter"
    assert settings["CapabilityBoundingSet"] == settings["AmbientCapabilities"]
    assert (
        (tool / "usr/lib/tmpfiles.d/gs-oom.conf").read_text().endswith("d /run/gs 0755 root root\n")
    )


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


# ---------------------------------------------------------------------------- what they do

DKMS_SCRIPTS = package.PACKAGING / "gs-oom-dkms/DEBIAN"

#: Instead of what a script calls: it notes how, and of these some answer, or fail.
PROGRAM = """#!/bin/sh
echo "${0##*/} $*" >>"$NOTES"
case ${0##*/} in
uname) echo 6.1.0-1-amd64 ;;
modinfo) echo "$NEW" ;;
esac
[ "${0##*/}" != "$FAILS" ]
"""


@dataclass(frozen=True)
class Ran:
    said: str
    called: list[str]


def ran(place: Path, script: str, *words: str, loaded: str = "", fails: str = "") -> Ran:
    """A script of the package on a machine below ``place``, with the module ``new`` installed."""
    programs, notes = place / "usr/lib/dkms", place / "notes"
    programs.mkdir(parents=True)
    for name in ("uname", "modinfo", "modprobe", "rmmod", "dkms", "common.postinst"):
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    if loaded:
        (place / "sys/module/gs_oom").mkdir(parents=True)
        (place / "sys/module/gs_oom/srcversion").write_text(loaded + "\n")
    text = (DKMS_SCRIPTS / script).read_text()
    for top in ("/usr/lib/", "/lib/modules/", "/sys/"):
        text = re.sub(rf"(?<![\w/]){top}", f"{place}{top}", text)
    path = f"{programs}:{os.environ['PATH']}"
    settings = {"PATH": path, "NOTES": str(notes), "NEW": "new", "FAILS": fails}
    command = ["sh", "-c", text, script, *words]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    return Ran(done.stderr, notes.read_text().splitlines())


def with_headers(place: Path) -> Path:
    (place / "lib/modules/6.1.0-1-amd64/build").mkdir(parents=True)
    return place


def test_it_says_which_headers_are_missing(tmp_path: Path) -> None:
    done = ran(tmp_path, "postinst", "configure", "")
    assert "apt-get install linux-headers-6.1.0-1-amd64\n" in done.said
    assert "gs-oom module build && gs-oom module load\n" in done.said
    assert not any("modprobe" in call for call in done.called)


def test_after_an_upgrade_it_says_that_the_old_module_stays(tmp_path: Path) -> None:
    done = ran(with_headers(tmp_path), "postinst", "configure", "0.1", loaded="old")
    assert "at the next boot, or: gs-oom module unload && gs-oom module load\n" in done.said


@pytest.mark.parametrize(
    ("loaded", "fails", "said"),
    [("new", "", ""), ("", "modprobe", "not loaded now"), ("old", "modinfo", "")],
)
def test_the_installation_ends_well(tmp_path: Path, loaded: str, fails: str, said: str) -> None:
    place = with_headers(tmp_path)
    done = ran(place, "postinst", "configure", "", loaded=loaded, fails=fails)
    assert "modprobe gs_oom" in done.called
    assert said in done.said and ("old module" not in done.said)


@pytest.mark.parametrize(("word", "goes"), [("remove", True), ("upgrade", False)])
def test_an_upgrade_leaves_the_module_where_it_is(tmp_path: Path, word: str, goes: bool) -> None:
    done = ran(tmp_path, "prerm", word)
    assert ("rmmod gs_oom" in done.called) is goes
    assert done.called[-1].startswith("dkms remove gs-oom/")
