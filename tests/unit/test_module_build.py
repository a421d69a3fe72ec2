"""What the module is made of, how its build directory is kept, and which kernels it is for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from provisioning import config
from provisioning.errors import DownloadFailed, UsageError
from provisioning.kernel import module, stock, versions


def test_it_is_made_of_the_files_of_the_repository() -> None:
    found = module.sources()
    assert {"dkms.conf", "module/Kbuild", "files/mm/graceful_shutdown.c"} <= set(found)
    for name, content in found.items():
        assert (versions.PATCHES_DIR / name).read_bytes() == content
    assert not [name for name in found if name.startswith(("files/tools", "files/Documentation"))]


def test_only_the_compat_header_knows_of_modules() -> None:
    """Elsewhere no line of the core depends on how it is built."""
    for name, content in module.sources().items():
        if name.startswith("files/mm/") and not name.endswith("_compat.h"):
            assert b"MODULE\n" not in content and b"defined(MODULE)" not in content, name


def test_what_is_the_same_keeps_its_time_stamp(tmp_path: Path) -> None:
    module._fill(tmp_path)
    core, extra = tmp_path / "files/mm/graceful_shutdown.c", tmp_path / "files/mm/gone.c"
    made = [tmp_path / "module/gs_oom.mod.c", tmp_path / "headers/include/generated/autoconf.h"]
    for path in [extra, *made]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    changed = tmp_path / "module/Kbuild"
    changed.write_text("")
    before = core.stat().st_mtime_ns
    module._fill(tmp_path)
    assert core.stat().st_mtime_ns == before
    assert changed.read_bytes() == module.sources()["module/Kbuild"]
    assert not extra.exists() and all(path.exists() for path in made)


@pytest.mark.parametrize(
    ("release", "made_for"),
    [
        *((versions.series(name).release, True) for name in config.SERIES),
        ("5.4.0-216-generic", True),
        ("6.1.0-48-cloud-amd64", True),
        ("6.12.12+bpo-amd64", True),
        ("5.3.18", False),
        ("5.20.1", False),
        ("6.13.1", False),
        ("6.18.2-amd64", False),
        ("7.1.1", False),
    ],
)
def test_dkms_passes_over_kernels_that_it_is_not_made_for(release: str, made_for: bool) -> None:
    """By the shell's own regular expressions, as DKMS does it."""
    script = '. "$0" && [[ $1 =~ $BUILD_EXCLUSIVE_KERNEL ]]'
    done = subprocess.run(["bash", "-c", script, module.DKMS, release], check=False)
    assert (done.returncode == 0) is made_for


def test_a_series_without_a_kernel_of_debians() -> None:
    with pytest.raises(UsageError, match=r"no kernel of the series 5\.4"):
        stock.kernel("5.4")


def test_packages_that_hold_something_else(tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="hold 0 times boot/vmlinuz"):
        stock._only(tmp_path, "boot/vmlinuz-*")
