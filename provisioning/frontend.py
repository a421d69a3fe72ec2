"""Between the options of a task and the stages: what was asked for, what to say, how to exit."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning import commands, config, log
from provisioning.config import SERIES
from provisioning.errors import MAKE_ROOM, HostFailed, ProvisioningError, UsageError, report
from provisioning.kernel import build, module, patches, source, versions
from provisioning.kernel.build import KernelArtefact, Plan
from provisioning.kernel.download import Unreachable
from provisioning.kernel.source import Source
from provisioning.kernel.versions import Cost, Seed
from provisioning.progress import note
from provisioning.vm import stock


@dataclass(frozen=True)
class Request:
    """The shared options of the kernel tasks, as given; empty means not given."""

    kernel: str = ""
    source: str = ""
    config: str = "guest"
    jobs: int = 0
    module: bool = False
    patched: bool = True
    fragments: tuple[str, ...] = ()

    @property
    def series(self) -> str:
        """The series asked for; when none was the home series, or with the module Debian's."""
        return self.kernel or (stock.DEFAULT if self.module else SERIES[0])

    def sources(self) -> Source:
        """Exactly the sources asked for."""
        if self.module:
            raise UsageError("with --module there are no sources", hint="leave --source out")
        return source.locate(self.series, self.source or source.DEFAULT)

    def plan(self, sources: Source | None = None, seed: Seed | None = None) -> Plan:
        """The build that these options stand for; ``seed``: for the host that it is from."""
        chosen = sources or self.sources()
        return build.plan(
            chosen.series.name,
            sources=chosen,
            flavour=self.config,
            patched=self.patched,
            seed=seed,
            fragments=self.own_fragments(),
        )

    def own_fragments(self) -> list[Path]:
        """Of the user's; UsageError if one is not there."""
        for name in self.fragments:
            if not Path(name).is_file():
                raise UsageError(f"no fragment {name}", hint="give a file of lines CONFIG_X=y")
        return [Path(name) for name in self.fragments]


def run_task(work: Callable[[], int | None]) -> None:
    """Do the work of a task and leave with its exit status; failures are told in one place."""
    log.setup()
    try:
        with commands.interruptible():
            status = work() or 0
    except ProvisioningError as error:
        print(report(error), file=sys.stderr)
        status = error.exit_code
    except OSError as error:
        failed = HostFailed(
            f"cannot use {error.filename or config.cache_dir()}",
            error.strerror or str(error),
            MAKE_ROOM,
        )
        print(report(failed), file=sys.stderr)
        status = failed.exit_code
    sys.exit(status)


def words_after_dashes() -> list[str]:
    """The words after the first ``--``, at least one; Invoke 2 gives a task none of them."""
    words = sys.argv[1:]
    after = words[words.index("--") + 1 :] if "--" in words else []
    if not after:
        raise UsageError("no command is given", hint="give it after --, as in vm.run -- uname -r")
    return after


def command_for(hosts: Sequence[str]) -> str:
    """This very command line with other hosts."""
    words, kept = iter(sys.argv[1:]), []
    for word in words:
        if word == "--host":
            next(words, None)
        elif not word.startswith("--host="):
            kept.append(word)
    return shlex.join(["./dev", *kept, *(f"--host={name}" for name in hosts)])


def available_sources(request: Request) -> Source:
    """The sources asked for, or, when nothing was and kernel.org is out of reach, Debian's.

    Then the asked series if Debian 12 has it, else the newest one that it has.
    """
    wanted = request.sources()
    if request.source or build.built(request.plan(wanted)):
        return wanted
    try:
        wanted.tree()
        return wanted
    except Unreachable as error:
        if not (series := _packaged_series(request.kernel)):
            raise
        note(f"{error.what}: {error.why}")
        note(f"going on with Linux {series} as Debian packages it (--source gives other sources)")
        return source.locate(series, "debian")


def kernel_for(request: Request, *, fall_back: bool = False) -> KernelArtefact:
    """The built kernel; ``fall_back`` as in :func:`available_sources`."""
    chosen = available_sources(request) if fall_back else request.sources()
    return build.build(
        chosen.series.name,
        source=chosen,
        config=request.config,
        jobs=request.jobs or None,
        patched=request.patched,
    )


@dataclass(frozen=True)
class Bootable:
    """What a machine is to boot, and what that takes."""

    image: Path
    cost: Cost


def bootable(request: Request) -> Bootable:
    """The patched kernel, from the sources that there are; or Debian's own, with the module."""
    if request.module:
        if request.source or request.config != "guest":
            raise UsageError(
                "--module takes Debian's kernel as it is", hint="leave --source and --config out"
            )
        return Bootable(stock.bootable(request.series), stock.COST)
    built = kernel_for(request, fall_back=True)
    return Bootable(built.image, built.flavour.cost)


def describe(request: Request) -> dict[str, Any]:
    """What would be built and what of it is in the cache; for ``--dry-run``."""
    if request.module:
        return {"series": request.series, "kernel": "Debian's own", "module": module.NAME}
    sources = request.sources()
    series = sources.series.name
    how = versions.flavour(request.config, series)
    facts = {
        "series": series,
        "sources": sources.origin,
        "sources_cached": sources.cached(),
        "patches": [p.name for p in patches.of_series(series)] if request.patched else [],
        "configuration": how.name,
        "fragments": [path.name for path in (*how.fragments, *request.own_fragments())],
        "compiler": build.compiler(how.arch),
    }
    if not how.base:
        return facts  # the rest depends on the host
    wanted = request.plan(sources)
    return {**facts, "kernel_cached": build.built(wanted) is not None, "key": wanted.image_key}


def show(facts: Mapping[str, Any], as_json: bool) -> None:
    """Facts on stdout, for people or for programs."""
    if as_json:
        print(json.dumps(facts, indent=2, default=str))
        return
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        print(f"{name.replace('_', ' '):<{width}}  {text}")


def show_rows(table_rows: Iterable[Mapping[str, Any]], as_json: bool) -> None:
    """A table on stdout; programs get a list."""
    rows = list(table_rows)
    if as_json:
        print(json.dumps(rows, indent=2, default=str))
        return
    if not rows:
        print("none")
        return
    table = [list(rows[0])] + [[str(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def artefact_facts(artefact: KernelArtefact) -> dict[str, Any]:
    """What people want to know of a built kernel."""
    return {
        "release": artefact.release,
        "image": artefact.image,
        "config": artefact.config,
        "tree": artefact.tree,
        "key": artefact.key,
    }


def _packaged_series(asked: str) -> str:
    if asked and source.packaged_now(asked):
        return asked
    newest_first = reversed(SERIES)
    return next((name for name in newest_first if source.packaged_now(name)), "")


def series_named(kernel: str) -> tuple[str, ...]:
    """One series when it is named, else all of them."""
    if kernel:
        versions.series(kernel)  # UsageError when there is none of that name
        return (kernel,)
    return SERIES
