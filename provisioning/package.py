"""What is handed out of gs: the single file, the wheel, and the package of the module."""

from __future__ import annotations

import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from provisioning import commands
from provisioning.config import REPO
from provisioning.kernel import module

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


def dkms(target: Path = DIST) -> Path:
    """The Debian package `gs-oom-dkms`: sources of the module, built anew for each kernel."""
    target.mkdir(parents=True, exist_ok=True)
    tool = commands.which_or_hint("dpkg-deb", "dpkg")
    version = module.version()
    with tempfile.TemporaryDirectory(prefix="gs-dkms-") as name:
        root = Path(name) / f"gs-oom-dkms_{version}_all"
        _fill_dkms(root, version)
        deb = target / f"{root.name}.deb"
        commands.run([tool, "--root-owner-group", "-Zxz", "--build", root, deb])
    return deb


def _fill_dkms(root: Path, version: str) -> None:
    files = {
        **{f"usr/src/gs-oom-{version}/{path}": data for path, data in module.sources().items()},
        "usr/lib/modules-load.d/gs-oom.conf": b"gs_oom\n",
        "DEBIAN/control": _CONTROL.format(version=version).encode(),
        "DEBIAN/postinst": _POSTINST.format(version=version).encode(),
        "DEBIAN/prerm": _PRERM.format(version=version).encode(),
    }
    for path, data in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        place.chmod(0o755 if place.name in ("postinst", "prerm") else 0o644)


_CONTROL = """\
Package: gs-oom-dkms
Version: {version}
Architecture: all
Maintainer: gs developers <developers@gs-oom.invalid>
Section: kernel
Priority: optional
Depends: dkms (>= 2.1.0.0)
Recommends: linux-headers-amd64 | linux-headers-cloud-amd64 | linux-headers-generic
Description: run a handler before the OOM killer kills a process (kernel module)
 A registered process gets a program of your choice run before the kernel's
 OOM killer kills it, in memory cgroups and on the whole machine. This is the
 module for stock kernels; a kernel patched with gs does not need it.
"""

#: DKMS's own script builds for the running kernel and those that have headers. That the module
#: cannot be loaded now (Secure Boot, say) must not break the installation: it says so itself.
_POSTINST = """\
#!/bin/sh
set -e
if [ "$1" = configure ]; then
	/usr/lib/dkms/common.postinst gs-oom {version} /usr/share/gs-oom "" "$2"
	modprobe gs_oom || echo "gs-oom-dkms: not loaded now; see: gs-oom module status, dmesg" >&2
fi
"""

_PRERM = """\
#!/bin/sh
set -e
case "$1" in
remove|upgrade|deconfigure)
	rmmod gs_oom 2>/dev/null || true
	dkms remove gs-oom/{version} --all || true
	;;
esac
"""


def run() -> int:
    """Make all three; the .deb of gs itself is not there yet."""
    print(zipapp())
    print(wheel())
    print(dkms())
    return 0
