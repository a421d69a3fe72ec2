"""The figures as a table for a terminal, and as a page in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from benchmarks.figures import HANDLERS, KINDS, Figure, times
from benchmarks.statistics import median_of, percentile

_COLUMNS = ("figure", "95 %", "goal", "", "n")


def table(figures: Sequence[Figure]) -> str:
    """For a terminal."""
    width = max(len(figure.title) for figure in figures) + 2
    lines = []
    for section, group in groupby(figures, lambda figure: figure.section):
        heads = " ".join(f"{head:>{size}}" for head, size in zip(_COLUMNS, _SIZES, strict=True))
        lines.append(f"\n{section:<{width}}{heads}")
        for figure in group:
            cells = zip(_cells(figure), _SIZES, strict=True)
            line = f"  {figure.title:<{width - 2}}" + " ".join(
                f"{cell:>{size}}" for cell, size in cells
            )
            lines.append(line.rstrip())
    return "\n".join([*lines, "", verdict(figures)])


_SIZES = (10, 15, 8, 8, 8)


def verdict(figures: Sequence[Figure]) -> str:
    """The closing line."""
    judged = [figure for figure in figures if figure.met is not None]
    missed = [figure for figure in judged if not figure.met]
    if not judged:
        return "no goals are set for these figures"
    return f"{len(judged) - len(missed)} of {len(judged)} goals met, {len(missed)} missed"


def markdown(
    about: Mapping[str, Mapping[str, Any]],
    figures: Sequence[Figure],
    samples: Mapping[str, Any],
    plot: str,
) -> str:
    """The page; ``about`` is that of each part, ``plot`` the name of the picture beside it."""
    releases = ", ".join(sorted({str(part["release"]) for part in about.values()}))
    parts = [f"# Benchmark, Linux {releases}", "", *_about(about), ""]
    if "handlers" in samples:
        parts += [f"![Times of the handlers]({plot})", ""]
    parts += [f"**{verdict(figures)}.**", ""]
    for section, group in groupby(figures, lambda figure: figure.section):
        parts += [f"## {section[0].upper()}{section[1:]}", ""]
        parts += ["| | figure | 95 % interval | goal | | n |", "|---|--:|--:|--:|---|--:|"]
        parts += [f"| {figure.title} | {' | '.join(_cells(figure))} |" for figure in group]
        parts.append("")
    if "handlers" in samples:
        parts += [*_milliseconds(samples["handlers"]), ""]
    if "phases" in samples:
        parts += ["## Where the time goes", "", *_phases(samples["phases"]), ""]
    parts += _how()
    return "\n".join(parts)


#: What is said of each part.
_CIRCUMSTANCES = ("command", "sources", "configuration", "machine", "host", "other_work", "date")


def _about(about: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A column for each set of parts that were measured together."""
    together: list[tuple[list[str], Mapping[str, Any]]] = []
    for name, part in about.items():
        for names, same in together:
            if same == part:
                names.append(name)
                break
        else:
            together.append(([name], part))
    yield f"| | {' | '.join(', '.join(names) for names, _ in together)} |"
    yield f"|---|{'---|' * len(together)}"
    for key in _CIRCUMSTANCES:
        cells = [str(part[key]) for _, part in together]
        yield f"| {key.replace('_', ' ')} | {' | '.join(cells)} |"


def _milliseconds(samples: Mapping[str, Any]) -> Iterator[str]:
    yield "## The same in milliseconds"
    yield ""
    yield "| | alone: median | p99 | under OOM: median | p99 | pages read from disk, alone |"
    yield "|---|--:|--:|--:|--:|--:|"
    for kind, kind_name in KINDS.items():
        for handler, name in HANDLERS.items():
            ways = [times(samples, kind, handler, way) for way in ("alone", "oom")]
            if not all(ways):
                continue
            cells = [
                f"{figure:.2f}"
                for way in ways
                for figure in (median_of([way]).value, percentile(way, 0.99))
            ]
            faults = [
                row["major"]
                for row in samples["trials"]
                if (row["kind"], row["handler"]) == (kind, handler) and "major" in row
            ]
            cells.append(f"{median_of([faults]).value:.0f}")
            yield f"| {kind_name}: {name} | {' | '.join(cells)} |"


#: Key in the samples → title; microseconds, then counts.
_PHASES = {
    "first_run": "first runs",
    "exec": "exec'd",
    "exit": "exits",
    "running": "ran",
    "runnable": "waited for a processor",
    "asleep": "slept",
}
_COUNTS = {"faults": "page faults", "reads": "reads issued"}


def phases(samples: Mapping[str, Any]) -> str:
    """The same for a terminal."""
    return "\n".join(_phases(samples))


def _phases(samples: Mapping[str, Any]) -> Iterator[str]:
    yield "Medians of traced trials, which are slower than the others; milliseconds from the"
    yield "choice of the victim, or from posix_spawn, and sums up to the exit."
    yield ""
    yield f"| | way | {' | '.join([*_PHASES.values(), *_COUNTS.values()])} |"
    yield f"|---|---|{'--:|' * (len(_PHASES) + len(_COUNTS))}"
    rows = [row for row in samples["phases"] if "problem" not in row]
    for (kind, handler, way), group in groupby(sorted(rows, key=_whose), _whose):
        same = list(group)
        cells = [f"{median_of([[row[key] / 1e3 for row in same]]).value:.2f}" for key in _PHASES]
        cells += [f"{median_of([[row[key] for row in same]]).value:.0f}" for key in _COUNTS]
        yield f"| {KINDS[kind]}: {HANDLERS[handler]} | {way} | {' | '.join(cells)} |"


def _whose(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["kind"], row["handler"], row["way"]


def _how() -> list[str]:
    return [
        "## What is measured",
        "",
        "* **Under OOM**: from the record `grace` (the victim is chosen) to the record `done` (the",
        "  handler has ended), by the kernel's own clock.",
        "* **Alone**: from before posix_spawn(3) to the return of wait4(2), by a C program, of the",
        "  same file with the same arguments and environment, as root, in the root cgroup, nice 0.",
        "  A moment earlier an unregistered victim has run out of memory and was killed, so that",
        "  the page cache is in the state in which an OOM of that kind leaves it: emptied by that",
        "  of the whole machine. Before that of a memory cgroup the program has just run.",
        "* Trials alternate: each round has every handler in both kinds of OOM in both ways, and",
        "  the order of the two ways changes from round to round. All of them are in one boot.",
        "* **p99** is over the median of the program alone; of fewer than 100 trials it is the",
        "  slowest.",
        "* **Kills of others** and kills with many entries: from before the touch of the page that",
        "  meets the OOM to the return of wait(2) for the killed process; 4 MB memory cgroup.",
        "  Boots of the two kernels alternate; the interval takes boots for what was drawn.",
        "* **Clocks**: handlers and the kill in a machine of two processors, in real time. The",
        "  rest waits for nothing, and runs on one processor; emulated, its clock counts",
        "  instructions (2 ns each), so that what else the host does is not measured along.",
        "* Intervals: bootstrap, 2,000 resamples of the ratio of medians.",
        "",
    ]


def _cells(figure: Figure) -> list[str]:
    interval = "" if figure.low is None else f"{_number(figure.low)}–{_number(figure.high)}"
    goal = "" if figure.goal is None else f"≤ {figure.goal:g}"
    state = {None: "", True: "met", False: "MISSED"}[figure.met]
    if figure.lost:
        state += f" ({figure.lost} lost)"
    unit = figure.unit if figure.unit == "×" else f" {figure.unit}"
    return [f"{_number(figure.value)}{unit}", interval, goal, state, str(figure.samples)]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
