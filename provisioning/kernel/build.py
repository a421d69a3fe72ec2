"""Pristine sources to a bootable image: working copies, make, and the finished artefacts.

Two keys. The *tree* key holds what a working copy with its objects cannot survive: sources,
flavour, compiler, architecture. The *image* key adds what is ours: overlay, patches, fragments.
So a changed patch finds a tree full of objects and compiles what depends on it, in seconds.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from provisioning import cache, commands
from provisioning.arch import X86_64, Arch
from provisioning.config import cache_dir
from provisioning.config import jobs as default_jobs
from provisioning.errors import BuildFailed, CommandFailed, UsageError
from provisioning.kernel import kconfig, patches, versions
from provisioning.kernel.source import Source, locate, release_of
from provisioning.kernel.versions import Flavour, Seed, Series
from provisioning.progress import bar, step

#: Fixed, so that the same input gives the same image.
REPRODUCIBLE = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 2026",
    "KBUILD_BUILD_USER": "gs",
    "KBUILD_BUILD_HOST": "gs",
    "KBUILD_BUILD_VERSION": "1",
    "LOCALVERSION": "-gs",
}

#: What the release's name ends in.
LOCAL_VERSION = REPRODUCIBLE["LOCALVERSION"]

#: Of the release's name in packages: beside a kernel of other inputs this one has room.
_HASH_LENGTH = 8

#: What a kernel's package is named before its release.
_IMAGE = "linux-image-"

#: How packages are made: all that they take is looked for by us, by its program.
_PACKAGING = ("KDEB_PKGVERSION=1", "DPKG_FLAGS=-d")

#: Lines that make prints for a whole guest kernel (5.4: 1574); only the bar's promise.
EXPECTED_LINES = 1550

#: After a hard stop, objects this many seconds younger than the youngest are not trusted.
SUSPECT_SECONDS = 120.0

_ERROR_LINE = re.compile(r"\b(error|Error|undefined reference|No rule to make)\b|\*\*\*")


@dataclass(frozen=True)
class KernelArtefact:
    """A kernel that can be booted.

    ``tree`` is where it was built, with its objects, for more builds; it may have moved on to
    another state of the patches since, or be gone from the cache.
    """

    image: Path
    config: Path
    release: str
    series: str
    flavour: Flavour
    tree: Path
    key: str


@dataclass(frozen=True)
class KernelPackages:
    """The same for a host, as Debian packages. ``headers`` are for modules that are built there;
    none where the configuration has no modules. ``release`` ends in a hash of all inputs."""

    image: Path
    headers: Path | None
    release: str


@dataclass(frozen=True)
class Plan:
    """What is to be built, and the keys that follow from it."""

    source: Source
    flavour: Flavour
    tree_key: str
    image_key: str
    local_version: str = LOCAL_VERSION

    @property
    def series(self) -> str:
        """The name of the series."""
        return self.source.series.name


def plan(
    series: str,
    *,
    sources: Source | None = None,
    flavour: str = "guest",
    patched: bool = True,
    seed: Seed | None = None,
    fragments: Sequence[Path] = (),
) -> Plan:
    """Work out the keys; fetches and builds nothing. ``seed`` is for flavours that are a host's;
    UsageError if it is missing. ``fragments`` come after those of the flavour."""
    chosen = sources or locate(series)
    how = versions.flavour(flavour, series)
    if not how.base:
        if seed is None or not seed.config:
            raise UsageError(
                f"the configuration {flavour} is that of a host", hint="add --host, or take another"
            )
        how = replace(how, seed=replace(seed, modules="") if how.whole else seed)
    how = replace(how, fragments=(*how.fragments, *fragments))
    how = how if patched else how.unpatched()
    tree_key = cache.key_of(chosen.key, how.name, compiler(how.arch), how.arch.name)
    return Plan(
        source=chosen,
        flavour=how,
        tree_key=tree_key,
        image_key=cache.key_of(
            tree_key,
            _digest_of_ours(how, series),
            kconfig.digest(how),
            json.dumps(_settings(chosen.series, how.arch)),
        ),
    )


def build(
    series: str,
    *,
    source: Source | None = None,
    config: str = "guest",
    jobs: int | None = None,
    patched: bool = True,
) -> KernelArtefact:
    """The kernel of a series, built if need be. Safe to interrupt and to run twice."""
    wanted = plan(series, sources=source, flavour=config, patched=patched)

    def make(part: Path) -> None:
        with working_copy(wanted) as place:
            _compile(wanted, place, jobs)
            _collect(wanted, place / "linux", part)

    return _artefact(wanted, cache.entry("kernel-image", wanted.image_key, make))


def packages(wanted: Plan, jobs: int | None = None) -> KernelPackages:
    """The kernel's own Debian packages, built if need be. Safe to interrupt and to run twice."""
    name = f"{LOCAL_VERSION}-{wanted.image_key[:_HASH_LENGTH]}"
    named = replace(wanted, local_version=name)

    def make(part: Path) -> None:
        with working_copy(named) as place:
            _look_for_packagers(place / "linux")
            _compile(named, place, jobs)
            _package(named, place, part)

    entry = cache.entry("kernel-package", cache.key_of(named.image_key, *_PACKAGING), make)
    (image,) = entry.glob(f"{_IMAGE}*.deb")
    headers = next(entry.glob("linux-headers-*.deb"), None)
    release = image.name.removeprefix(_IMAGE).partition("_")[0]
    return KernelPackages(image, headers, release)


def built(wanted: Plan) -> KernelArtefact | None:
    """The artefact if it is in the cache already."""
    entry = cache.present("kernel-image", wanted.image_key)
    return _artefact(wanted, entry) if entry else None


def patched_tree(wanted: Plan) -> Path:
    """Fetch, unpack, patch; the tree, which stays in the cache for the build."""
    with working_copy(wanted) as place:
        return place / "linux"


def compile_objects(wanted: Plan, targets: Sequence[str], extra: Sequence[str] = ()) -> str:
    """Compile single targets (such as mm/oom_kill.o) in the tree; what the compiler said."""
    with working_copy(wanted) as place:
        _configure(wanted, place)
        tree = place / "linux"
        for target in targets:
            (tree / target).unlink(missing_ok=True)
        log = place / "objects.log"
        log.unlink(missing_ok=True)
        _make(wanted, tree, [*extra, *targets], log=log)
        return log.read_text()


@contextmanager
def tree_for_modules(wanted: Plan, jobs: int | None = None) -> Iterator[Path]:
    """The tree with all that modules are built against, nobody else's inside the block."""
    with working_copy(wanted) as place:
        if not (place / "linux/Module.symvers").exists():
            _compile(wanted, place, jobs)
        yield place / "linux"


@contextmanager
def working_copy(wanted: Plan) -> Iterator[Path]:
    """The work directory, ours alone, its ``linux`` patched to what this checkout has (or left
    as it is, for an unpatched flavour)."""
    pristine = wanted.source.tree()
    with cache.workspace("kernel-tree", wanted.tree_key) as place:
        tree = place / "linux"
        if not (place / "copied").exists():
            _copy(pristine, tree)
            (place / "copied").touch()
        _distrust_after_crash(place, tree)
        if wanted.flavour.patched:
            with step(f"patching Linux {release_of(pristine)}"):
                patches.prepare(pristine, tree, wanted.series, place / "ours.json")
        else:
            patches.prove_unpatched(tree)
        yield place


def _digest_of_ours(flavour: Flavour, series: str) -> str:
    return patches.digest(series) if flavour.patched else "nothing"


@functools.cache
def compiler(arch: Arch = X86_64) -> str:
    """The compiler's and the linker's version lines."""
    tools = [arch.tool(name) for name in ("gcc", "ld")]
    lines = [commands.run([tool, "--version"]).stdout.partition("\n")[0] for tool in tools]
    return " / ".join(lines)


def _copy(pristine: Path, tree: Path) -> None:
    """Hard links: a second in place of a minute, and a gigabyte saved. Nobody writes in place:
    we replace files by renaming, kbuild makes its own, and the cache would notice."""
    shutil.rmtree(tree, ignore_errors=True)
    (tree.parent / "ours.json").unlink(missing_ok=True)
    commands.run(["cp", "-al", pristine, tree])


def _compile(wanted: Plan, place: Path, jobs: int | None) -> None:
    _configure(wanted, place)
    tree, log, running = place / "linux", place / "build.log", place / "running"
    log.unlink(missing_ok=True)
    running.touch()
    # How much a changed file of ours makes make do is not known beforehand.
    total = None if (place / "built").exists() else EXPECTED_LINES
    with (
        step(f"building Linux {release_of(tree)} ({wanted.flavour.name})"),
        bar("compiling", total, "files") as progress,
    ):

        def count(line: str) -> None:
            if line.startswith("  "):
                progress.update()

        try:
            _make(
                wanted,
                tree,
                [f"-j{jobs or default_jobs()}", wanted.flavour.arch.image.name]
                + [*wanted.flavour.targets],
                log=log,
                on_line=count,
            )
        finally:
            running.unlink()  # make has ended by itself and taken back what was half done
    (place / "built").touch()


def _configure(wanted: Plan, place: Path) -> None:
    tree, stamp = place / "linux", place / "configured"
    ours = cache.key_of(
        kconfig.digest(wanted.flavour), _digest_of_ours(wanted.flavour, wanted.series)
    )
    config_file = tree / ".config"
    known = stamp.exists() and config_file.exists()
    if known and stamp.read_text() == cache.key_of(ours, config_file.read_bytes()):
        return
    log = place / "configure.log"
    log.unlink(missing_ok=True)

    def make(targets: Sequence[str], variables: Mapping[str, str]) -> None:
        _make(wanted, tree, targets, log=log, variables=variables)

    with step(f"configuring ({wanted.flavour.name})"):
        kconfig.configure(tree, wanted.flavour, make)
    stamp.write_text(cache.key_of(ours, config_file.read_bytes()))


def _ignore(_line: str) -> None:
    """For builds that nobody watches."""


def _make(
    wanted: Plan,
    tree: Path,
    words: Sequence[str],
    *,
    log: Path,
    variables: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] = _ignore,
) -> None:
    tool = commands.which_or_hint("make", "build-essential")
    given = {
        **_settings(wanted.source.series, wanted.flavour.arch),
        "LOCALVERSION": wanted.local_version,
    }
    settings = [f"{name}={value}" for name, value in given.items()]
    try:
        commands.stream(
            [tool, *settings, *words],
            on_line=on_line,
            cwd=tree,
            env=dict(variables or {}),
            log=log,
        )
    except CommandFailed as error:
        said = [line.strip() for line in error.output.splitlines() if _ERROR_LINE.search(line)]
        raise BuildFailed(
            f"make {words[-1]} failed in {tree}",
            said[0] if said else error.what,
            "see the log; with the mistake mended, run it again to go on",
            log=log,
        ) from None


def _settings(series: Series, arch: Arch) -> dict[str, str]:
    """What make is told, whatever the target."""
    return {**arch.make, **REPRODUCIBLE, **dict(series.make)}


def _collect(wanted: Plan, tree: Path, part: Path) -> None:
    shutil.copy2(tree / wanted.flavour.arch.image, part / wanted.flavour.arch.image.name)
    shutil.copy2(tree / ".config", part / "config")
    shutil.copy2(tree / "System.map", part / "System.map")
    release = (tree / "include/config/kernel.release").read_text().strip()
    facts = {
        "release": release,
        "origin": wanted.source.origin,
        "compiler": compiler(wanted.flavour.arch),
    }
    (part / "facts.json").write_text(json.dumps(facts, indent=2))


def _look_for_packagers(tree: Path) -> None:
    """What this tree's bindeb-pkg takes, before an hour is spent in compiling."""
    commands.which_or_hint("dpkg-buildpackage", "dpkg-dev")
    if (tree / "scripts/package/debian/rules").exists():  # in 6.12, not in 6.1
        commands.which_or_hint("dh_listpackages", "debhelper")
    if "Rules-Requires-Root: no" not in (tree / "scripts/package/mkdebian").read_text():  # 5.4
        commands.which_or_hint("fakeroot", "fakeroot")


def _package(wanted: Plan, place: Path, part: Path) -> None:
    """Make the tree's own packages, which kbuild puts beside the tree, and move them to ``part``;
    those of an earlier build that was cut short are of another name, and removed."""
    log = place / "package.log"
    log.unlink(missing_ok=True)
    for old in place.glob("*.deb"):
        old.unlink()
    with step(f"packaging Linux {release_of(place / 'linux')}"):
        _make(wanted, place / "linux", [*_PACKAGING, "bindeb-pkg"], log=log)
    for deb in place.glob("*.deb"):
        if not deb.name.startswith("linux-libc-dev"):
            shutil.move(deb, part)


def _artefact(wanted: Plan, entry: Path) -> KernelArtefact:
    return KernelArtefact(
        image=entry / wanted.flavour.arch.image.name,
        config=entry / "config",
        release=json.loads((entry / "facts.json").read_text())["release"],
        series=wanted.series,
        flavour=wanted.flavour,
        tree=cache_dir() / "kernel-tree" / wanted.tree_key / "linux",
        key=wanted.image_key,
    )


def _distrust_after_crash(place: Path, tree: Path) -> None:
    """A build that was killed outright may have left half-written objects that make would trust."""
    running = place / "running"
    if not running.exists():
        return
    objects = [(path.stat().st_mtime, path) for path in tree.rglob("*.[oa]") if path.is_file()]
    youngest = max((when for when, _ in objects), default=0.0)
    for when, path in objects:
        if when > youngest - SUSPECT_SECONDS:
            path.unlink()
    running.unlink()
