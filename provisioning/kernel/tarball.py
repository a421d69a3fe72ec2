"""A kernel for hosts that install no Debian packages: what its package holds, as a tarball."""

from __future__ import annotations

import tempfile
from pathlib import Path

from provisioning import cache, commands
from provisioning.config import EPOCH
from provisioning.kernel.build import KernelPackages

#: Of the package, what lies here is the kernel. The directories themselves are left out: where /lib
#: is a symbolic link, tar would put a directory in its place, and no program would start there.
_PLACES = ("boot", "lib/modules")

#: The same kernel gives the same bytes.
_ALWAYS_THE_SAME = ("--sort=name", f"--mtime=@{EPOCH}", "--owner=0", "--group=0")


def write(kernel: KernelPackages, folder: Path) -> Path:
    """Make linux-RELEASE.tar.xz, for the root directory, and beside it its checksum as sha256sum(1)
    reads it. What is there already is replaced as a whole."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"linux-{kernel.release}.tar.xz"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".gs-") as name:
        box, part = Path(name) / "box", Path(name) / target.name
        commands.run(["dpkg-deb", "-x", kernel.image, box])
        found = sorted(path for place in _PLACES for path in (box / place).glob("*"))
        parts = [path.relative_to(box) for path in found]
        commands.run(["tar", "-C", box, *_ALWAYS_THE_SAME, "-cJf", part, *parts])
        checksum = Path(name) / f"{target.name}.sha256"
        checksum.write_text(f"{cache.hash_file(part)}  {target.name}\n")
        part.replace(target)
        checksum.replace(folder / checksum.name)
    return target
