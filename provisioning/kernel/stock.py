"""Debian's own kernels as they are, and the headers that modules for them are built with.

Where Debian has none, one that is built of a series' own sources stands in for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from provisioning import cache
from provisioning.arch import X86_64, Arch
from provisioning.errors import DownloadFailed, UsageError
from provisioning.kernel import build, debian, versions
from provisioning.kernel.source import Source
from provisioning.kernel.versions import DebianPackage, Series
from provisioning.progress import step

#: Of what a kernel's packages depend on, what is the kernel's; the rest is a machine's business.
OURS = ("linux-image-", "linux-headers-", "linux-kbuild-")


@dataclass(frozen=True)
class Headers:
    """What modules are built with: the sources, and what was generated for one configuration."""

    common: Path
    own: Path


@dataclass(frozen=True)
class StockKernel:
    """One kernel, in the cache.

    ``release`` is as uname -r has it. ``headers`` are there for the length of a block.
    """

    series: str
    arch: Arch
    key: str
    release: str
    image: Path
    modules: Path
    headers: Callable[[], AbstractContextManager[Headers]]


def kernel(series: str, arch: Arch = X86_64) -> StockKernel:
    """The newest one of a series, fetched if need be."""
    package = _package(versions.series(series), arch)
    found = debian.newest(package)
    key = cache.key_of(package.package, found.version)

    def make(part: Path) -> None:
        with step(f"fetching Debian's kernel {found.version}"):
            debian.unpack_with_dependencies(found, [_headers(package)], OURS, part)

    return _in(cache.entry("stock-kernel", key, make), series, arch, key)


def stand_in(series: str, flavour: str, sources: Source | None = None) -> StockKernel:
    """A kernel of a flavour that has modules, without a word of ours; built if need be.

    All of its own drivers are built in.
    """
    built = build.build(series, source=sources, config=flavour, patched=False)
    wanted = build.plan(series, sources=sources, flavour=flavour, patched=False)

    @contextmanager
    def headers() -> Iterator[Headers]:
        with build.tree_for_modules(wanted) as tree:
            yield Headers(tree, tree)

    return StockKernel(
        series=series,
        arch=wanted.flavour.arch,
        key=built.key,
        release=built.release,
        image=built.image,
        modules=built.image.parent,
        headers=headers,
    )


def _package(series: Series, arch: Arch) -> DebianPackage:
    if series.debian is None or not series.stock:
        raise UsageError(
            f"Debian has no kernel of the series {series.name}", hint="take 5.10, 6.1 or 6.12"
        )
    image = f"linux-image-{series.stock}-{arch.debian}"
    return DebianPackage(image, series.debian.suite, series.debian.archived, arch)


def _headers(image: DebianPackage) -> str:
    return image.package.replace("linux-image-", "linux-headers-")


def _in(place: Path, series: str, arch: Arch, key: str) -> StockKernel:
    modules = _only(place, "lib/modules/*")
    headers = Headers(
        common=_only(place, "usr/src/linux-headers-*-common"),
        own=_only(place, f"usr/src/linux-headers-*-{arch.debian}"),
    )
    return StockKernel(
        series=series,
        arch=arch,
        key=key,
        release=modules.name,
        image=_only(place, "boot/vmlinuz-*"),
        modules=modules,
        headers=lambda: nullcontext(headers),
    )


def _only(place: Path, pattern: str) -> Path:
    found = sorted(place.glob(pattern))
    if len(found) != 1:
        raise DownloadFailed(
            f"Debian's kernel packages hold {len(found)} times {pattern}, not once"
        )
    return found[0]
