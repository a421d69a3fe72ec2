"""The exporter's figures, as its command prints them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def parse(text: str) -> Figures:
    """The samples of the text format, by name and labels."""
    found: Figures = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = _SAMPLE.match(line)
            assert match, line
            key = (match[1], frozenset(_LABEL.findall(match[2] or "")))
            assert key not in found, f"twice: {line}"
            found[key] = float(match[3])
    return found


class Exporter:
    """The real command, started anew each time, with one state directory."""

    def __init__(self, state: Path, within: Sequence[str] = (), **settings: str) -> None:
        self.words = [*within, "python3", "-m", "gs", "exporter", "--once", "--state", str(state)]
        self.environment = {**os.environ, **settings}
        #: What it told first.
        self.before = self.once()

    def once(self) -> Figures:
        done = subprocess.run(self.words, capture_output=True, text=True, env=self.environment)
        assert done.returncode == 0, done.stderr
        return parse(done.stdout)


def value(figures: Figures, name: str, **labels: str) -> float:
    """One sample; 0 if there is none."""
    return figures.get((name, frozenset(labels.items())), 0.0)


def total(figures: Figures, name: str) -> float:
    """The sum over all labels."""
    return sum(count for (sample, _), count in figures.items() if sample == name)
