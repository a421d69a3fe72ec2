"""What is handed out of gs: the single file, the wheel, and the Debian packages."""

from __future__ import annotations

import gzip
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from provisioning import commands
from provisioning.config import EPOCH, REPO
from provisioning.kernel import module

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DIST = REPO / "dist"

#: Of each Debian package what is written by hand, as it lies in the package.
PACKAGING = Path(__file__).parent / "packaging"
COPYRIGHT = PACKAGING / "copyright"

#: Where Debian's own Python looks.
LIBRARIES = "usr/lib/python3/dist-packages"

#: Every member of an archive has this date, so that the same sources give the same file.
DATE = (2026, 1, 1, 0, 0, 0)

MAIN = "import sys\nfrom gs.cli import main\nsys.exit(main())\n"


def zipapp(target: Path = DIST / "gs-oom.pyz") -> Path:
    """gs as one executable file, for any machine with Python 3.8."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with part.open("wb") as raw:
        raw.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo("__main__.py", DATE), MAIN)
            for path in _library():
                info = zipfile.ZipInfo(str(path.relative_to(REPO)), DATE)
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, path.read_bytes())
    part.chmod(0o755)
    return part.replace(target)


def wheel(target: Path = DIST) -> Path:
    """The wheel `gs-oom`: gs/ and nothing else."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gs-wheel-") as name:
        place = Path(name)
        # A copy: setuptools leaves a build/ behind, and takes what an earlier one left there.
        shutil.copytree(REPO / "gs", place / "tree/gs", ignore=shutil.ignore_patterns("*.pyc"))
        shutil.copy(REPO / "pyproject.toml", place / "tree")
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        commands.run([*pip, "-w", place, place / "tree"])
        made = next(place.glob("gs_oom-*.whl"))
        return Path(shutil.copy(made, target))


def tool(target: Path = DIST) -> Path:
    """The Debian package `gs-oom`: the command, and the library for Debian's own Python."""
    files = {f"{LIBRARIES}/{path.relative_to(REPO)}": path.read_bytes() for path in _library()}
    # By this interpreter, but of this checkout, and as wide as any terminal.
    settings = {"PYTHONPATH": str(REPO), "COLUMNS": "80"}
    page = commands.run([sys.executable, "-m", "gs.manual"], env=settings).stdout
    words = commands.run([sys.executable, "-m", "gs", "completion", "bash"], env=settings).stdout
    files["usr/share/man/man1/gs-oom.1.gz"] = gzip.compress(page.encode(), mtime=0)
    files["usr/share/bash-completion/completions/gs-oom"] = words.encode()
    return _deb("gs-oom", _version(), files, target)


def dkms(target: Path = DIST) -> Path:
    """The Debian package `gs-oom-dkms`: sources of the module, built anew for each kernel."""
    version = module.version()
    sources = module.sources().items()
    files = {f"usr/src/gs-oom-{version}/{path}": content for path, content in sources}
    return _deb("gs-oom-dkms", version, files, target)


def _library() -> list[Path]:
    found = sorted((REPO / "gs").rglob("*"))
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def _version() -> str:
    with (REPO / "pyproject.toml").open("rb") as file:
        version: str = tomllib.load(file)["project"]["version"]
    return version


def _deb(name: str, version: str, files: Mapping[str, bytes], target: Path) -> Path:
    """``files`` and what :data:`PACKAGING` holds for it, with its version put in."""
    target.mkdir(parents=True, exist_ok=True)
    builder = commands.which_or_hint("dpkg-deb", "dpkg")
    deb = target / f"{name}_{version}_all.deb"
    with tempfile.TemporaryDirectory(prefix="gs-deb-") as folder:
        root = Path(folder) / name
        for path, content in {**_by_hand(name, version), **files}.items():
            place = root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            place.chmod(0o755 if content.startswith(b"#!") else 0o644)
        words: list[str | Path] = [builder, "--root-owner-group", "-Zxz", "--build", root, deb]
        commands.run(words, env={"SOURCE_DATE_EPOCH": EPOCH})
    return deb


def _by_hand(name: str, version: str) -> dict[str, bytes]:
    found = {f"usr/share/doc/{name}/copyright": COPYRIGHT.read_bytes()}
    for path in sorted((PACKAGING / name).rglob("*")):
        if path.is_file():
            content = path.read_bytes().replace(b"@VERSION@", version.encode())
            found[str(path.relative_to(PACKAGING / name))] = content
    return found


def run() -> int:
    """Make all of them."""
    for make in (zipapp, wheel, tool, dkms):
        print(make())
    return 0
