"""The module for kernels that are not patched: built from the core as it lies in the overlay."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from provisioning import cache, commands
from provisioning.arch import Arch
from provisioning.config import jobs as default_jobs
from provisioning.errors import BuildFailed, CommandFailed
from provisioning.kernel import build, patches, versions
from provisioning.kernel.stock import Headers, StockKernel
from provisioning.progress import step

#: The attachment; the core is the overlay's.
ATTACHMENT = versions.PATCHES_DIR / "module"

#: What DKMS goes by.
DKMS = versions.PATCHES_DIR / "dkms.conf"

#: Of the overlay, what the module is made of.
_PARTS = ("include/", "mm/")

NAME = "gs_oom.ko"

_COMPLAINT = re.compile(r"\b(error|warning|undefined)\b")


def sources() -> dict[str, bytes]:
    """Path below the top of a build directory → content; the same as in kernel_patches."""
    ours = patches.overlay().items()
    found = {f"files/{name}": content for name, content in ours if name.startswith(_PARTS)}
    for path in [DKMS, *sorted(ATTACHMENT.iterdir())]:
        found[str(path.relative_to(versions.PATCHES_DIR))] = path.read_bytes()
    return found


def version() -> str:
    """As dkms.conf has it; the module's own is the core's."""
    found = re.search(r'^PACKAGE_VERSION="(.*)"$', DKMS.read_text(), re.MULTILINE)
    if found is None:
        raise BuildFailed("the module has no version", f"no PACKAGE_VERSION in {DKMS}")
    return found.group(1)


def digest() -> str:
    """Changes whenever anything of which the module is made changes."""
    return cache.key_of(*(part for item in sources().items() for part in item))


def built(kernel: StockKernel) -> Path:
    """gs_oom.ko for this kernel, without debugging information."""

    def make(part: Path) -> None:
        with (
            step(f"building the module for Linux {kernel.release}"),
            cache.workspace("module-tree", cache.key_of(kernel.key, compiler)) as place,
            kernel.headers() as headers,
        ):
            _fill(place)
            _make(kernel, headers, place)
            commands.run(
                [kernel.arch.tool("strip"), "-g", place / "module" / NAME, "-o", part / NAME]
            )

    compiler = build.compiler(kernel.arch)
    key = cache.key_of(kernel.key, digest(), compiler)
    return cache.entry("module", key, make) / NAME


def _fill(place: Path) -> None:
    """What is the same keeps its time stamp, and is not compiled again."""
    wanted = sources()
    for name, content in wanted.items():
        path = place / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for top in ("files", "module"):
        for path in (place / top).rglob("*.[ch]"):
            if str(path.relative_to(place)) not in wanted and not path.name.endswith(".mod.c"):
                path.unlink()


def _settings(arch: Arch) -> dict[str, str]:
    """Of what Debian's headers say of their own: the compiler is this machine's, and type
    information would take another program."""
    return {**arch.make, "CC": f"{arch.cross}gcc", "CONFIG_DEBUG_INFO_BTF_MODULES": ""}


def _make(kernel: StockKernel, headers: Headers, place: Path) -> None:
    """With the headers where they are; installed ones would know each other's place."""
    tool = commands.which_or_hint("make", "build-essential")
    settings = [f"{name}={value}" for name, value in _settings(kernel.arch).items()]
    where = ["-C", str(headers.common), f"M={place / 'module'}"]
    if headers.own != headers.common:
        where.append(f"O={_writable(headers.own, place)}")
    log = place / "build.log"
    log.unlink(missing_ok=True)
    try:
        commands.run([tool, *where, *settings, f"-j{default_jobs()}", "W=1", "modules"], log=log)
    except CommandFailed as error:
        said = [line.strip() for line in log.read_text().splitlines() if _COMPLAINT.search(line)]
        raise BuildFailed(
            f"the module does not build for Linux {kernel.release}",
            said[0] if said else error.what,
            "see the log",
            log=log,
        ) from None


def _writable(own: Path, place: Path) -> Path:
    """A copy of the generated half (1 MB): make writes there, and the cache would notice."""
    copy = place / "headers" / "src" / own.name
    if not copy.exists():
        shutil.copytree(own, copy, symlinks=True)
        (place / "headers/lib").symlink_to(own.parents[1] / "lib")
    return copy
