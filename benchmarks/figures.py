"""From samples to figures, each with its goal; a miss is shown as what it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.statistics import Estimate, median_of, percentile, ratio_of_medians

HANDLERS = {
    "nothing": "does nothing",
    "write": "writes a file",
    "copy": "copies a file line by line",
    "ping": "pings a server",
    "shm": "reads shared memory, saves it",
}

KINDS = {"memcg": "memory cgroup", "global": "whole machine"}

MS = 1e6
US = 1e3

#: Samples, as the guest wrote them down; of the part "others" one a boot.
Samples = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """One line of the table. ``goal``: not above that; None where there is none.

    ``low`` and ``high``: the 95 % interval, where there is one. ``lost``: trials without a result.
    """

    section: str
    title: str
    value: float
    unit: str
    samples: int
    goal: float | None = None
    low: float | None = None
    high: float | None = None
    lost: int = 0

    @property
    def met(self) -> bool | None:
        """Whether the goal is met: with every trial, since a lost one meets nothing."""
        if self.goal is None:
            return None
        return self.value <= self.goal and not self.lost


def all_figures(samples: Mapping[str, Any]) -> list[Figure]:
    """The whole table of the parts that were measured."""
    found: list[Figure] = []
    if "handlers" in samples:
        found += handler_ratios(samples["handlers"])
        found += kill_delays(samples["handlers"])
    if "registry" in samples:
        found += registrations(samples["registry"])
        found += many_entries(samples["registry"])
    if "others" in samples:
        found += other_kills(samples["others"], "patched", "unpatched")
    if "module" in samples:
        found += module_ratios(samples["module"])
    if "module-others" in samples:
        found += other_kills(samples["module-others"], "module", "bare")
    if "backends" in samples:
        found += by_backend(samples["backends"])
    if "hosts" in samples:
        found += hosts_at_once(samples["hosts"])
    return found


def times(samples: Samples, kind: str, handler: str, way: str) -> list[float]:
    """Milliseconds of the trials that came to their end, in their order."""
    return [
        row["ns"] / MS for row in _rows(samples, kind, handler) if row["way"] == way and "ns" in row
    ]


def handler_ratios(samples: Samples) -> Iterator[Figure]:
    """From the choice of the victim to the handler's end, over the program alone."""
    section = "handler under OOM / the same program alone"
    for kind in KINDS:
        for handler in HANDLERS:
            oom = times(samples, kind, handler, "oom")
            alone = times(samples, kind, handler, "alone")
            lost = sum("problem" in row for row in _rows(samples, kind, handler))
            title = f"{KINDS[kind]}: {HANDLERS[handler]}"
            if not oom or not alone:
                yield Figure(section, title, float("inf"), "×", 0, 1.15, lost=lost)
                continue
            middle = median_of([alone]).value
            yield _ratio(section, title, [oom], [alone], 1.15, lost)
            p99 = percentile(oom, 0.99) / middle
            yield Figure(section, f"{title}, p99", p99, "×", len(oom), 2.0)


def kill_delays(samples: Samples) -> Iterator[Figure]:
    """How long the kill takes when nothing is left to wait for."""
    section = "the kill"
    for kind, name in KINDS.items():
        rows = [row for row in samples["trials"] if row["kind"] == kind and row["way"] == "oom"]
        cuts = [row for row in samples["cuts"] if row["kind"] == kind]
        for title, chosen in (
            ("after the handler's end", rows),
            ("after the deadline of one that never ends", cuts),
        ):
            delays = [row["kill_ns"] / MS for row in chosen if "kill_ns" in row]
            lost = len(chosen) - len(delays)
            if not delays:
                yield Figure(section, f"{name}: {title}", float("inf"), "ms", 0, 100, lost=lost)
                continue
            yield _median(section, f"{name}: {title}, median", delays, "ms")
            worst = max(delays)
            yield Figure(
                section, f"{name}: {title}, longest", worst, "ms", len(delays), 100, lost=lost
            )


def registrations(samples: Samples) -> Iterator[Figure]:
    """What a registration costs."""
    section = "registration"
    score, line, score_opened, line_opened = (
        [row[column] / US for row in samples["costs"]] for column in range(4)
    )
    yield _median(section, "a write to oom_score_adj", score, "µs")
    yield _median(section, "a registration", line, "µs")
    yield _ratio(section, "a registration / a write to oom_score_adj", [line], [score], 1.5)
    yield _ratio(
        section, "the same, with open and close each time", [line_opened], [score_opened], 1.5
    )
    writes = samples["writes"]
    for key, title in (("add", "registered"), ("remove", "removed")):
        took = [ns / MS for ns in writes[key]]
        yield _median(section, f"10,000 lines {title} by one write", took, "ms", 50)


def many_entries(samples: Samples) -> Iterator[Figure]:
    """Kills with very many registrations over kills with one."""
    section = "100,000 entries / one entry"
    for registered, title in (
        (False, "a process that is not registered, to its end"),
        (True, "a registered process, with its handler, to its end"),
    ):
        many, one = (
            [
                row["ns"] / MS
                for row in samples["kills"]
                if row["many"] == state and row["registered"] == registered
            ]
            for state in (True, False)
        )
        yield _ratio(section, title, [many], [one], 1.05)


#: How a kernel is called that was measured in turn with another.
KERNELS = {
    "patched": "patched kernel",
    "unpatched": "unpatched kernel",
    "builtin": "built in",
    "module": "module",
    "bare": "kernel without it",
}


def other_kills(boots: Sequence[Samples], ours: str, theirs: str) -> Iterator[Figure]:
    """OOM kills that are none of our business on a kernel with us over those on one without."""
    section = f"kills of others: {KERNELS[ours]} / {KERNELS[theirs]}"
    for key, title in (
        ("plain", "nothing registered"),
        ("disabled", "registered, with enabled=0"),
    ):
        with_us, without = (
            [[ns / MS for ns in boot[key]] for boot in boots if boot["of"] == name]
            for name in (ours, theirs)
        )
        yield _ratio(section, title, with_us, without, 1.02)
        middle = median_of(without).value
        yield Figure(section, f"{title}: without", middle, "ms", sum(map(len, without)))


def module_ratios(boots: Sequence[Samples]) -> Iterator[Figure]:
    """Handlers under OOM with the module, over those with the same core built in."""
    section = "handler under OOM: module / built in"
    for kind in KINDS:
        for handler in HANDLERS:
            module, builtin = (
                [times(boot, kind, handler, "oom") for boot in boots if boot["of"] == name]
                for name in ("module", "builtin")
            )
            lost = sum("problem" in row for boot in boots for row in _rows(boot, kind, handler))
            title = f"{KINDS[kind]}: {HANDLERS[handler]}"
            if all(module) and all(builtin):
                yield _ratio(section, title, module, builtin, 1.1, lost)
            else:
                yield Figure(section, title, float("inf"), "×", 0, 1.1, lost=lost)


def by_backend(boots: Sequence[Samples]) -> Iterator[Figure]:
    """Handlers of `gs run`, whichever way it learns of the OOM."""
    section = "`gs run --memory-max 64M`, by backend"
    for handler in dict.fromkeys(row["handler"] for boot in boots for row in boot["trials"]):
        alone, _ = _of_backend(boots, "alone", handler)
        yield _median(
            section, f"{HANDLERS[handler]}: alone", [row["ns"] / MS for row in alone], "ms"
        )
        for backend in dict.fromkeys(boot["of"] for boot in boots):
            mine = [boot for boot in boots if boot["of"] == backend]
            found, lost = _of_backend(mine, "oom", handler)
            for key, title in (("ns", "from the choice to its end"), ("kill_ns", "to the kill")):
                values = [row[key] / MS for row in found] or [float("inf")]
                title = f"{HANDLERS[handler]}, {backend}: {title}"
                yield _median(section, f"{title}, median", values, "ms")
                yield Figure(section, f"{title}, longest", max(values), "ms", len(found), lost=lost)


def hosts_at_once(rows: Sequence[Samples]) -> Iterator[Figure]:
    """Until the last of several hosts has been looked at and has its kernel, over one alone."""
    section = "hosts: looked at, and sent a kernel"
    counts = sorted({row["hosts"] for row in rows})
    for part in dict.fromkeys(row["part"] for row in rows):
        with_it = [row for row in rows if row["part"] == part]
        whose = f"{part:g} of a processor each" if part else "all on the same processors"
        took = [[row["ns"] / MS for row in with_it if row["hosts"] == count] for count in counts]
        for count, values in zip(counts, took, strict=True):
            yield _median(section, f"{whose}: {count} at once, median", values, "ms")
        title = f"{whose}: {counts[-1]} at once / {counts[0]}"
        # The goal is for hosts; those on the same processors wait for each other.
        yield _ratio(section, title, [took[-1]], [took[0]], 1.3 if part else None)


def _of_backend(
    boots: Sequence[Samples], way: str, handler: str
) -> tuple[list[Mapping[str, Any]], int]:
    """The trials that came to their end, and how many did not."""
    rows = [row for boot in boots for row in boot["trials"]]
    chosen = [row for row in rows if row["way"] == way and row["handler"] == handler]
    good = [row for row in chosen if "ns" in row]
    return good, len(chosen) - len(good)


def _rows(samples: Samples, kind: str, handler: str) -> list[Mapping[str, Any]]:
    return [row for row in samples["trials"] if row["kind"] == kind and row["handler"] == handler]


def _median(
    section: str, title: str, values: Sequence[float], unit: str, goal: float | None = None
) -> Figure:
    found = median_of([values])
    return Figure(section, title, found.value, unit, len(values), goal, found.low, found.high)


def _ratio(
    section: str,
    title: str,
    above: Sequence[Sequence[float]],
    below: Sequence[Sequence[float]],
    goal: float | None,
    lost: int = 0,
) -> Figure:
    found: Estimate = ratio_of_medians(above, below)
    count = min(sum(map(len, above)), sum(map(len, below)))
    return Figure(section, title, found.value, "×", count, goal, found.low, found.high, lost)
