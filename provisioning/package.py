"""What is handed out of gs: the single file and the wheel."""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from provisioning import commands
from provisioning.config import REPO

DIST = REPO / "dist"

#: Every member of the zip has this date, so that the same sources give the same file.
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
            for path in sorted((REPO / "gs").rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    name = str(path.relative_to(REPO))
                    info = zipfile.ZipInfo(name, DATE)
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


def run() -> int:
    """Make both; the .deb and the DKMS package are not there yet."""
    print(zipapp())
    print(wheel())
    return 0
