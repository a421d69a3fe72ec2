"""The times of the handlers as a picture: an SVG of dots, by hand, since it needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.figures import HANDLERS, KINDS, times
from benchmarks.statistics import median_of

_WIDTH = 860
_LEFT = 215
_RIGHT = 75
_TOP = 58
_ROW = 44
_GAP = 34
_COLOURS = {"alone": "#6b7280", "oom": "#c2410c"}
_LABELS = {"alone": "alone", "oom": "as a handler under OOM"}


def svg(samples: Mapping[str, Any], title: str) -> str:
    """Each row: a handler in one kind of OOM; a dot for each trial, a bar at the median."""
    rows = [
        (kind, handler, {way: times(samples, kind, handler, way) for way in _COLOURS})
        for kind in KINDS
        for handler in HANDLERS
    ]
    rows = [row for row in rows if all(row[2].values())]
    everything = [value for row in rows for way in row[2].values() for value in way]
    axis = _Axis(min(everything), max(everything))
    height = _TOP + _ROW * len(rows) + _GAP * len(KINDS) + 40
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
            f'width="{_WIDTH}" height="{height}" font-family="system-ui, sans-serif" '
            'font-size="13">',
            f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
            f'<text x="16" y="24" font-size="16" font-weight="600">{escape(title)}</text>',
            *_legend(),
            *_body(rows, axis, height),
            "</svg>",
            "",
        ]
    )


class _Axis:
    """Milliseconds on a logarithmic scale."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = math.log10(low / 1.15), math.log10(high * 1.15)

    def x(self, value: float) -> float:
        """Where a value stands."""
        part = (math.log10(value) - self._low) / (self._high - self._low)
        return round(_LEFT + part * (_WIDTH - _LEFT - _RIGHT), 1)

    def ticks(self) -> Iterator[float]:
        """1, 2, 5, 10, ... as far as they are in sight."""
        for power in range(-3, 7):
            for digit in (1, 2, 5):
                value = digit * 10.0**power
                if self._low <= math.log10(value) <= self._high:
                    yield value


def _legend() -> Iterator[str]:
    x = _LEFT
    for way, colour in _COLOURS.items():
        yield f'<circle cx="{x}" cy="42" r="4" fill="{colour}"/>'
        yield f'<text x="{x + 10}" y="46.5" fill="{colour}">{_LABELS[way]}</text>'
        x += 30 + 8 * len(_LABELS[way])


def _body(rows: Sequence[Any], axis: _Axis, height: int) -> Iterator[str]:
    for tick in axis.ticks():
        x = axis.x(tick)
        yield f'<path d="M{x} {_TOP}V{height - 32}" stroke="#e5e7eb"/>'
        label = f"{tick:g}"
        yield f'<text x="{x}" y="{height - 14}" text-anchor="middle">{label} ms</text>'
    y, kind_before = _TOP, ""
    for kind, handler, ways in rows:
        if kind != kind_before:
            y, kind_before = y + _GAP, kind
            yield f'<text x="16" y="{y - 10}" font-weight="600">{KINDS[kind]}</text>'
        yield f'<text x="16" y="{y + _ROW / 2 + 4}">{escape(HANDLERS[handler])}</text>'
        medians = [median_of([ways[way]]).value for way in _COLOURS]
        ratio = f"{medians[1] / medians[0]:.2f}×"
        yield (
            f'<text x="{_WIDTH - 16}" y="{y + _ROW / 2 + 4}" text-anchor="end" '
            f'font-weight="600">{ratio}</text>'
        )
        for place, (way, colour) in enumerate(_COLOURS.items()):
            yield from _dots(ways[way], axis, y + 10 + 18 * place, colour, medians[place])
        y += _ROW


def _dots(
    values: Sequence[float], axis: _Axis, y: float, colour: str, middle: float
) -> Iterator[str]:
    for number, value in enumerate(values):
        shifted = y + (number % 5 - 2) * 1.6  # or dots of the same value would be one
        yield (
            f'<circle cx="{axis.x(value)}" cy="{shifted:.1f}" r="2.6" fill="{colour}" '
            'fill-opacity="0.45"/>'
        )
    x = axis.x(middle)
    yield f'<path d="M{x} {y - 8}V{y + 8}" stroke="{colour}" stroke-width="2.5"/>'
