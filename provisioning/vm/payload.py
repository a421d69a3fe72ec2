"""The payload drive: a tar of what changes between runs, read by the guest as a raw disk."""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from provisioning import cache, commands
from provisioning.arch import X86_64, Arch
from provisioning.config import REPO, cache_dir, jobs

INIT = Path(__file__).parent / "guest" / "init"

#: Always there, below /gs in the guest: name → path in the checkout. And "bin": programs().
STANDARD = {
    "gs": REPO / "gs",
    "guest": Path(__file__).parent / "guest",
    "tests/guest": REPO / "tests" / "guest",
    "tests/unit/data": REPO / "tests" / "unit" / "data",
}

#: A raw disk has whole sectors.
SECTOR = 512


def programs(arch: Arch = X86_64) -> Path:
    """The directory of the test programs; ``make`` does nothing when all are up to date."""
    make = commands.which_or_hint("make", "build-essential")
    target = REPO / "test_programs" / ("bin" if arch == X86_64 else f"bin-{arch.name}")
    words: list[str | Path] = ["-C", target.parent, f"BIN={target.name}", f"CC={arch.tool('gcc')}"]
    with cache.exclusive(cache_dir() / "vm" / "test_programs"):
        commands.run([make, *words, f"-j{jobs()}"], timeout=600)
    return target


def write(
    target: Path,
    *,
    command: Sequence[str] | None = None,
    extra: Mapping[str, Path] | None = None,
    texts: Mapping[str, bytes] | None = None,
    arch: Arch = X86_64,
) -> None:
    """Write the tar. ``extra``: name below /gs → file or directory; ``texts``: name → content."""
    given = {**STANDARD, "bin": programs(arch), **(extra or {})}
    with tarfile.open(target, "w") as archive:
        archive.add(INIT, "init", filter=_as_root)
        for name, path in given.items():
            if path.exists():
                archive.add(path, name, filter=_as_root)
        for name, content in (texts or {}).items():
            _add_text(archive, name, content)
        if command is not None:
            _add_text(archive, "command", f"exec {shlex.join(command)}\n".encode())
    _pad(target)


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "__pycache__" in member.name:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _add_text(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    archive.addfile(member, io.BytesIO(content))


def _pad(target: Path) -> None:
    size = target.stat().st_size
    with target.open("ab") as file:
        file.truncate((size + SECTOR - 1) // SECTOR * SECTOR)
