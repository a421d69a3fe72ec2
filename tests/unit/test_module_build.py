"""What the module is made of, how its build directory is kept, and which kernels it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

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


def test_a_series_without_a_kernel_of_debians() -> None:
    with pytest.raises(UsageError, match=r"no kernel of the series 5\.4"):
        stock.kernel("5.4")


def test_packages_that_hold_something_else(tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="hold 0 times boot/vmlinuz"):
        stock._only(tmp_path, "boot/vmlinuz-*")
