"""A kernel's Debian package as a tarball."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from provisioning.errors import CommandFailed
from provisioning.kernel import tarball
from provisioning.kernel.build import KernelPackages


def packaged(place: Path, *paths: str) -> KernelPackages:
    """A real package that holds these files."""
    root = place / "root"
    for path in ("DEBIAN/control", *paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")
    control = "Package: linux-image-6-gs\nVersion: 1\nArchitecture: all\nMaintainer: gs\n"
    (root / "DEBIAN/control").write_text(control + "Description: a kernel\n")
    deb = place / "linux-image-6-gs_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", root, deb], check=True, stdout=subprocess.DEVNULL)
    return KernelPackages(deb, None, "6-gs")


def test_what_a_tarball_holds(tmp_path: Path) -> None:
    kernel = packaged(tmp_path, "boot/vmlinuz-6-gs", "lib/modules/6-gs/a.ko", "usr/share/doc/x")
    target = tmp_path / "out/of/it"
    made = tarball.write(kernel, target)
    assert made == target / "linux-6-gs.tar.xz"
    with tarfile.open(made) as archive:
        assert not {"boot", "lib", "lib/modules"}.intersection(archive.getnames())
        files = [member for member in archive.getmembers() if member.isfile()]
    assert [one.name for one in files] == ["boot/vmlinuz-6-gs", "lib/modules/6-gs/a.ko"]
    assert {(one.uid, one.gid, one.uname) for one in files} == {(0, 0, "root")}
    check = ["sha256sum", "--check", "--quiet", f"{made.name}.sha256"]
    subprocess.run(check, cwd=target, check=True)
    first = made.read_bytes()
    assert tarball.write(kernel, target).read_bytes() == first
    assert sorted(path.name for path in target.iterdir()) == [made.name, f"{made.name}.sha256"]


def test_a_kernel_without_modules(tmp_path: Path) -> None:
    made = tarball.write(packaged(tmp_path, "boot/vmlinuz-6-gs"), tmp_path)
    with tarfile.open(made) as archive:
        assert archive.getnames() == ["boot/vmlinuz-6-gs"]


def test_links_of_the_system_stay(tmp_path: Path) -> None:
    """/lib is one to /usr/lib on most."""
    system = tmp_path / "system"
    (system / "usr/lib").mkdir(parents=True)
    (system / "lib").symlink_to("usr/lib")
    made = tarball.write(packaged(tmp_path, "lib/modules/6-gs/a.ko"), tmp_path)
    subprocess.run(["tar", "-C", system, "-xf", made], check=True)
    assert (system / "lib").is_symlink() and (system / "usr/lib/modules/6-gs/a.ko").exists()


def test_nothing_is_left_of_one_that_fails(tmp_path: Path) -> None:
    deb = tmp_path / "no.deb"
    deb.write_text("no package")
    with pytest.raises(CommandFailed):
        tarball.write(KernelPackages(deb, None, "6-gs"), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
