"""Debian's own kernels as they are, and the headers that modules for them are built with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provisioning import cache
from provisioning.errors import DownloadFailed, UsageError
from provisioning.kernel import debian, versions
from provisioning.kernel.versions import DebianPackage, Series
from provisioning.progress import step

#: Of what a kernel's packages depend on, what is the kernel's; the rest is a machine's business.
OURS = ("linux-image-", "linux-headers-", "linux-kbuild-")


@dataclass(frozen=True)
class StockKernel:
    """One kernel, unpacked in the cache.

    ``common`` and ``own`` are the two halves of its headers: the sources, and what was generated
    for this configuration of them.
    """

    series: str
    key: str
    image: Path
    modules: Path
    common: Path
    own: Path

    @property
    def release(self) -> str:
        """As uname -r has it."""
        return self.modules.name


def kernel(series: str) -> StockKernel:
    """The newest one of a series, fetched if need be."""
    package = _package(versions.series(series))
    found = debian.newest(package)
    key = cache.key_of(package.package, found.version)

    def make(part: Path) -> None:
        with step(f"fetching Debian's kernel {found.version}"):
            debian.unpack_with_dependencies(found, [_headers(package)], OURS, part)

    return _in(cache.entry("stock-kernel", key, make), series, key)


def _package(series: Series) -> DebianPackage:
    if series.debian is None or not series.stock:
        raise UsageError(
            f"Debian has no kernel of the series {series.name}", hint="take 5.10, 6.1 or 6.12"
        )
    image = f"linux-image-{series.stock}"
    return DebianPackage(image, series.debian.suite, series.debian.archived)


def _headers(image: DebianPackage) -> str:
    return image.package.replace("linux-image-", "linux-headers-")


def _in(place: Path, series: str, key: str) -> StockKernel:
    return StockKernel(
        series=series,
        key=key,
        image=_only(place, "boot/vmlinuz-*"),
        modules=_only(place, "lib/modules/*"),
        common=_only(place, "usr/src/linux-headers-*-common"),
        own=_only(place, "usr/src/linux-headers-*-amd64"),
    )


def _only(place: Path, pattern: str) -> Path:
    found = sorted(place.glob(pattern))
    if len(found) != 1:
        raise DownloadFailed(
            f"Debian's kernel packages hold {len(found)} times {pattern}, not once"
        )
    return found[0]
