"""What kernels.toml declares: series, releases, signers, flavours. Knows no other file.

Written to by one function only, which moves a series to another release.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from provisioning import arch, cache, config
from provisioning.arch import X86_64, Arch
from provisioning.errors import ProvisioningError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Everything of ours that goes into a kernel tree.
PATCHES_DIR: Path = config.REPO / "kernel_patches"

#: Public keys of those who sign kernel.org's releases, a binary keyring for gpgv.
KEYRING: Path = Path(__file__).parent / "keys" / "kernel.org.gpg"


@dataclass(frozen=True)
class DebianPackage:
    """A package, and the suite that has it; ``package`` holds sources below /usr/src, or a kernel.

    Of an ``archived`` suite the signed lists are no longer renewed, and their date is over.
    """

    package: str
    suite: str
    archived: bool = False
    arch: Arch = X86_64


@dataclass(frozen=True)
class Series:
    """One kernel series: the release to fetch and the patches that fit it.

    ``make``: variables that this series' make needs with today's compilers. ``stock``: what the
    names of Debian's own kernel packages end in before the architecture, in the suite of its
    sources.
    """

    name: str
    status: str
    release: str
    tarball: str
    sha256: str
    signers: tuple[str, ...]
    patches: Path
    debian: DebianPackage | None
    make: tuple[tuple[str, str], ...] = ()
    stock: str = ""


@dataclass(frozen=True)
class Cost:
    """What a kernel takes beyond one of the flavour guest: times as long, and MB of memory."""

    slower: float = 1.0
    memory_mb: int = 0


#: Of the flavour guest itself.
USUAL = Cost()


@dataclass(frozen=True)
class Seed:
    """What a host's own kernel is like: its configuration, and what lsmod(8) says there; empty
    where all modules are to be kept."""

    config: str
    modules: str = ""


@dataclass(frozen=True)
class Flavour:
    """One way to configure a kernel.

    ``base``: a target of the tree's make, or nothing where it is a host's: ``seed``, which has to
    be given then; ``whole``: with all of its modules, loaded or not. ``without``: options that are
    left out although a fragment asks for them.
    ``patched``: with overlay and patches; without them it is what the kernel would be if we did
    not exist. ``targets``: what make is asked for besides the image.
    """

    name: str
    base: str
    fragments: tuple[Path, ...]
    cost: Cost = USUAL
    without: frozenset[str] = frozenset()
    patched: bool = True
    targets: tuple[str, ...] = ()
    arch: Arch = X86_64
    whole: bool = False
    seed: Seed | None = None

    def unpatched(self) -> Flavour:
        """The same configuration of the sources as they are."""
        ours = frozenset(_declared()["ours"]["options"])
        return replace(self, name=f"{self.name}-unpatched", without=ours, patched=False)


@dataclass(frozen=True)
class DebianArchive:
    """Where Debian packages come from and which keyring signs them."""

    archive: str
    security: str
    keyring: Path


@lru_cache(maxsize=1)
def _declared() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((PATCHES_DIR / "kernels.toml").read_text())
    return table


def series(name: str) -> Series:
    """The declaration of a series such as "5.4"."""
    table = _declared()["series"]
    if name not in table:
        raise UsageError(f"there is no kernel series {name!r}", hint=f"take one of {_or(table)}")
    row = table[name]
    fingerprints = _declared()["signers"]
    return Series(
        name=name,
        status=row["status"],
        release=row["release"],
        tarball=row["tarball"],
        sha256=row["sha256"],
        signers=tuple(fingerprints[who] for who in row["signers"]),
        patches=PATCHES_DIR / row["patches"],
        debian=DebianPackage(**row["debian"]) if "debian" in row else None,
        make=tuple(row.get("make", {}).items()),
        stock=row.get("stock", ""),
    )


def flavour(name: str, series_name: str) -> Flavour:
    """The declaration of a flavour, with the fragments that this series adds to it."""
    table = _declared()["config"]
    if name not in table:
        raise UsageError(f"there is no configuration {name!r} yet", hint=f"take {_or(table)}")
    row = table[name]
    fragments: list[Path] = []
    for fragment in row["fragments"]:
        path = PATCHES_DIR / "configs" / fragment
        own = path.with_name(f"{path.stem}-{series_name}{path.suffix}")
        fragments += [path] + ([own] if own.exists() else [])
    cost = Cost(row.get("slower", 1.0), row.get("memory_mb", 0))
    targets = tuple(row.get("targets", ()))
    built_for = arch.named(row.get("arch", X86_64.name))
    return Flavour(
        name,
        row["base"],
        tuple(fragments),
        cost,
        targets=targets,
        arch=built_for,
        whole=row.get("whole", False),
    )


def declare(moved: Series) -> None:
    """Make kernels.toml say this series' release, tarball and hash; all else in it stays."""
    file = PATCHES_DIR / "kernels.toml"
    wanted = {"release": moved.release, "tarball": moved.tarball, "sha256": moved.sha256}
    head, section, rest = file.read_text().partition(f'[series."{moved.name}"]\n')
    body, following, tail = rest.partition("\n[")
    for key, value in wanted.items():
        body = re.sub(rf'^{key} = ".*"$', f'{key} = "{value}"', body, flags=re.MULTILINE)
    text = head + section + body + following + tail
    now = tomllib.loads(text)["series"][moved.name]
    if {key: now[key] for key in wanted} != wanted:
        raise ProvisioningError(f"cannot write {file}", f"it declares {moved.name} in another way")
    cache.write_whole(file, text)
    _declared.cache_clear()


def mirrors(release: str) -> list[str]:
    """Addresses of the directory with a release's tarball, the preferred one first."""
    own = os.environ.get("GS_KERNEL_MIRROR")
    major = release.split(".")[0]
    return ([own.rstrip("/")] if own else []) + [
        mirror.format(major=major) for mirror in _declared()["mirrors"]
    ]


def debian_archive() -> DebianArchive:
    """Debian's archive; GS_DEBIAN_MIRROR replaces the main one."""
    row = _declared()["debian"]
    return DebianArchive(
        archive=os.environ.get("GS_DEBIAN_MIRROR") or row["archive"],
        security=os.environ.get("GS_DEBIAN_SECURITY_MIRROR") or row["security"],
        keyring=Path(row["keyring"]),
    )


def _or(names: Any) -> str:
    return ", ".join(names)
