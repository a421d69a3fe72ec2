"""The benchmark's results as files: parts that were measured at different times stand together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks import plot, report
from benchmarks.figures import Figure, all_figures
from provisioning import cache
from provisioning.progress import note


@dataclass(frozen=True)
class Results:
    """Part → its samples, and part → under what circumstances they came about."""

    samples: Mapping[str, Any]
    about: Mapping[str, Mapping[str, Any]]

    @cached_property
    def figures(self) -> list[Figure]:
        """The table."""
        return all_figures(self.samples)

    def facts(self) -> list[dict[str, Any]]:
        """The table for programs."""
        return [{**asdict(figure), "met": figure.met} for figure in self.figures]

    def beside(self, older: Results) -> Results:
        """These, and of the older ones those parts that are not among them."""
        return Results({**older.samples, **self.samples}, {**older.about, **self.about})

    def write(self, folder: Path, series: str) -> None:
        """JSON, page and picture, each whole or not at all; earlier parts that stand there stay."""
        folder.mkdir(parents=True, exist_ok=True)
        data = folder / f"{series}.json"
        self.beside(read(data))._write(data)
        note(f"written: {folder}/{series}.json, .md, .svg")

    def _write(self, data: Path) -> None:
        whole = {"about": self.about, "figures": self.facts(), "samples": self.samples}
        cache.write_whole(data, _json(whole) + "\n")
        picture = data.with_suffix(".svg")
        if "handlers" in self.samples:
            release = self.about["handlers"]["release"]
            title = f"Linux {release}: from the choice of the victim to the handler's end"
            cache.write_whole(picture, plot.svg(self.samples["handlers"], title))
        page = report.markdown(self.about, self.figures, self.samples, picture.name)
        cache.write_whole(data.with_suffix(".md"), page)


def read(path: Path) -> Results:
    """What was written there; nothing where there is no such file."""
    try:
        whole = json.loads(path.read_text())
    except FileNotFoundError:
        return Results({}, {})
    return Results(whole["samples"], whole["about"])


def _json(value: Any, depth: int = 0) -> str:
    """JSON with a line for each sample, or for a few numbers, so that a change can be read."""
    if isinstance(value, dict) and (depth < 2 or any(map(_holds_more, value.values()))):
        parts = [f"{json.dumps(key)}: {_json(part, depth + 1)}" for key, part in value.items()]
        return _block("{}", parts, depth)
    if isinstance(value, list) and any(map(_holds_more, value)):
        return _block("[]", [_json(part, depth + 1) for part in value], depth)
    if isinstance(value, list) and len(value) > _NUMBERS:
        chunks = [value[at : at + _NUMBERS] for at in range(0, len(value), _NUMBERS)]
        return _block("[]", [json.dumps(chunk)[1:-1] for chunk in chunks], depth)
    return json.dumps(value)


#: Numbers on one line.
_NUMBERS = 10


def _holds_more(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _block(brackets: str, parts: list[str], depth: int) -> str:
    new_line = "\n" + " " * depth
    inner = ",".join(f"{new_line} {part}" for part in parts)
    return f"{brackets[0]}{inner}{new_line}{brackets[1]}"
