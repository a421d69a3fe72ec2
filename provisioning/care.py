"""Care of the patch series: check, refresh, export, edit and bump them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from provisioning.config import SERIES, source_from_environment
from provisioning.errors import DownloadFailed, PatchConflict, UsageError
from provisioning.frontend import Request, series_named
from provisioning.kernel import editing, patches, source, versions
from provisioning.kernel.source import Source
from provisioning.progress import note


def at_hand(series: str) -> Source | None:
    """Sources of a series without asking kernel.org: the tester's own, else Debian's."""
    own = source_from_environment(series)
    if own:
        return source.locate(series, own)
    return source.locate(series, "debian") if source.packaged(series) else None


def check(request: Request) -> int:
    """Say for each patch of the series whether it fits; 0 if all fit and none is stale."""
    stale = 0
    for series, sources in _chosen(request):
        for found in patches.check(sources.tree(), series):
            state = "stale" if found.stale else "offset" if found.offset else "ok"
            print(f"{series:<5} {state:<7} {found.patch}")
            stale += found.stale
    if stale:
        raise PatchConflict(
            f"{stale} patches are not as refresh would write them", hint="run patches.refresh"
        )
    return 0


def refresh(request: Request) -> int:
    """Write stale patches anew, each from the first series that names it."""
    seen: set[str] = set()
    for series, sources in _chosen(request):
        names = {patch.name for patch in patches.of_series(series)}
        home = series == SERIES[0]
        for name in patches.refresh(sources.tree(), series, line_numbers=home, leave=seen):
            print(f"{series:<5} {name}")
        seen |= names
    return 0


def export(request: Request, target: str) -> int:
    """Write the series as mailable patches into a directory."""
    sources = request.sources()
    where = Path(target or f"dist/patches-{versions.series(request.series).name}")
    for path in patches.export(sources.tree(), request.series, where):
        print(path)
    return 0


def edit(request: Request, output: str, *, done: bool, drop: bool) -> int:
    """Make the working tree of a series, take it back into the checkout, or drop it."""
    series = versions.series(request.series).name
    tree = Path(output or f"dist/edit-{series}").absolute()
    if done and drop:
        raise UsageError("--done and --drop exclude each other")
    if done:
        changes = editing.take_back(tree, series)
        editing.write(changes)
        for name in changes.names():
            print(name)
        note(f"{len(changes.contents)} files of kernel_patches changed; see patches.check")
    if done or drop:
        editing.drop(tree)
        return 0
    sources = request.sources() if request.source else at_hand(series) or request.sources()
    note("made" if editing.begin(sources, series, tree) else "it is there already, as it was left")
    print(tree)
    note("each commit above gs-overlay is a patch: amend, rebase (git rebase -i gs-overlay), add")
    note(f"then ./dev patches.edit --kernel {series} --done, or --drop to forget it")
    return 0


def bump(request: Request, release: str, *, dry_run: bool) -> int:
    """Move a series to another release in kernels.toml, if its patches apply there at fuzz 0."""
    series = request.series
    declared = versions.series(series)
    if not release:
        raise UsageError("which release?", hint=f"give it: --to {series}.NUMBER")
    found = source.another_release(series, release, request.source or source.DEFAULT)
    for entry in patches.check(found.tree(), series):
        state = "stale" if entry.stale else "offset" if entry.offset else "ok"
        print(f"{series:<5} {state:<7} {entry.patch}")
    moved = found.series
    print(f"{series}: {declared.release} -> {moved.release}, sha256 {moved.sha256}")
    if dry_run:
        note("nothing was written")
    elif moved == declared:
        note("kernels.toml says so already")
    else:
        versions.declare(moved)
        note("kernels.toml is changed; patches.refresh writes line numbers anew")
    return 0


def _chosen(request: Request) -> Iterator[tuple[str, Source]]:
    for series in series_named(request.kernel):
        sources = request.sources() if request.source else at_hand(series)
        if sources is None:
            variable = "GS_KERNEL_SOURCE_" + series.replace(".", "_")
            note(f"{series} is left out: no sources at hand; set {variable} or give --source")
            if request.kernel:
                raise DownloadFailed(f"no sources of {series}", hint=f"set {variable}")
            continue
        yield series, sources
