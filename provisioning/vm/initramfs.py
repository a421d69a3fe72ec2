"""The initial RAM file system by which a distribution's kernel finds the disk of our machines.

It holds modules, and test_programs/boot/load_modules.c, which loads them in the order given.
"""

from __future__ import annotations

import lzma
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

#: Its name beside a kernel's image: a kernel that has one is started with it.
NAME = "initrd.img"

#: Drivers of the devices that qemu.py gives a machine, and of what is on its disk.
DRIVERS = ("virtio_pci", "virtio_blk", "ext4", "virtio_console", "virtio-rng", "virtio_net")

_DIRECTORIES = ("dev", "proc", "root", "modules")
_ALIGN = 4


def drivers(modules: Path) -> list[Path]:
    """Of a kernel's modules those that our machines need, each behind the ones that it needs.

    What the kernel has built in is in no file, and left out.
    """
    files = {_name(path): path for path in sorted(modules.rglob("*.ko*"))}
    found: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in files and name not in found:
            for needed in _depends(content(files[name])):
                add(needed)
            found[name] = files[name]

    for driver in DRIVERS:
        add(driver.replace("-", "_"))
    return list(found.values())


def write(target: Path, init: Path, modules: Sequence[Path]) -> None:
    """An archive with ``init`` as /init and the modules, named so that their order is kept."""
    with target.open("wb") as out:
        for name in _DIRECTORIES:
            out.write(_member(name, b"", stat.S_IFDIR | 0o755))
        out.write(_member("init", init.read_bytes(), stat.S_IFREG | 0o755))
        for number, path in enumerate(modules):
            name = f"modules/{number:02d}-{_name(path)}.ko"
            out.write(_member(name, content(path), stat.S_IFREG | 0o644))
        out.write(_member("TRAILER!!!", b"", 0))


def content(module: Path) -> bytes:
    """A module as the kernel takes it; since 6.12 Debian compresses them."""
    data = module.read_bytes()
    return lzma.decompress(data) if module.suffix == ".xz" else data


def _name(path: Path) -> str:
    """As the kernel calls it."""
    return path.name.partition(".")[0].replace("-", "_")


def _depends(module: bytes) -> Iterator[str]:
    """What the section .modinfo says; its strings are separated by zero bytes."""
    _, found, rest = module.partition(b"\0depends=")
    if found:
        words = rest.partition(b"\0")[0].decode()
        yield from (word.replace("-", "_") for word in words.split(",") if word)


def _member(name: str, data: bytes, mode: int) -> bytes:
    """One file as cpio's format "newc" has it, which is the one that the kernel reads."""
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + path) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGN)
