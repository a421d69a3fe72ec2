"""The initial RAM file system: which modules are in it, in which order, and in which format."""

from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path

import pytest

from provisioning.vm import initramfs


def module(place: Path, name: str, *needs: str, packed: bool = False) -> Path:
    """As far as the order is concerned: the section .modinfo between other bytes."""
    data = b"\x7fELF\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0retpoline=Y\0"
    path = place / (name + ".ko" + (".xz" if packed else ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(data) if packed else data)
    return path


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    place = tmp_path / "modules"
    module(place, "kernel/drivers/virtio/virtio_ring")
    module(place, "kernel/drivers/virtio/virtio", "virtio_ring", packed=True)
    module(place, "kernel/drivers/virtio/virtio_pci", "virtio", "virtio_ring")
    module(place, "kernel/drivers/char/virtio-rng", "virtio")
    module(place, "kernel/drivers/net/e1000")
    return place


def test_each_behind_those_that_it_needs(modules: Path) -> None:
    names = [path.name.partition(".")[0] for path in initramfs.drivers(modules)]
    assert names == ["virtio_ring", "virtio", "virtio_pci", "virtio-rng"]


def test_what_the_kernel_has_built_in_is_left_out(tmp_path: Path) -> None:
    assert initramfs.drivers(tmp_path) == []


def test_a_packed_module_is_unpacked(modules: Path) -> None:
    (packed,) = modules.rglob("*.xz")
    assert initramfs.content(packed).startswith(b"\x7fELF")


@pytest.mark.skipif(not shutil.which("cpio"), reason="no cpio here to read it with")
def test_cpio_reads_it(modules: Path, tmp_path: Path) -> None:
    init, archive, out = tmp_path / "init", tmp_path / "initrd.img", tmp_path / "out"
    init.write_bytes(b"#!/bin/true\n")
    initramfs.write(archive, init, initramfs.drivers(modules))
    out.mkdir()
    with archive.open("rb") as source:
        subprocess.run(["cpio", "-idm", "--quiet"], stdin=source, cwd=out, check=True)
    assert (out / "init").stat().st_mode & 0o777 == 0o755
    names = sorted(path.name for path in (out / "modules").iterdir())
    assert names == ["00-virtio_ring.ko", "01-virtio.ko", "02-virtio_pci.ko", "03-virtio_rng.ko"]
    assert (out / "modules/01-virtio.ko").read_bytes().startswith(b"\x7fELF")
    assert (out / "dev").is_dir() and (out / "proc").is_dir() and (out / "root").is_dir()
