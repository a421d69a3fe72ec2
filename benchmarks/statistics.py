"""Medians, percentiles, ratios of medians, and bootstrap intervals; pure functions of numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

#: Samples of samples, for the interval.
RESAMPLES = 2000

#: The part of them that the interval holds.
CONFIDENCE = 0.95

#: The same samples give the same interval.
SEED = 5_4

Group = Sequence[float]


@dataclass(frozen=True)
class Estimate:
    """A figure and the interval in which it lies with 95 % confidence."""

    value: float
    low: float
    high: float


def percentile(samples: Group, part: float) -> float:
    """The smallest sample that is not exceeded by ``part`` of them (nearest rank).

    Of fewer than 100 samples the 99th percentile is the largest.
    """
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def median_of(groups: Sequence[Group]) -> Estimate:
    """The median of all samples. Each group is one boot: boots are resampled, then samples."""
    return _estimate([groups], lambda chosen: median(chosen[0]))


def ratio_of_medians(above: Sequence[Group], below: Sequence[Group]) -> Estimate:
    """Median of one over median of the other, each in groups as in :func:`median_of`."""
    return _estimate([above, below], lambda chosen: median(chosen[0]) / median(chosen[1]))


def _estimate(
    sets: Sequence[Sequence[Group]], figure: Callable[[list[list[float]]], float]
) -> Estimate:
    dice = random.Random(SEED)
    value = figure([_flat(groups) for groups in sets])
    found = sorted(figure([_resampled(groups, dice) for groups in sets]) for _ in range(RESAMPLES))
    outside = (1 - CONFIDENCE) / 2
    return Estimate(value, percentile(found, outside), percentile(found, 1 - outside))


def _flat(groups: Sequence[Group]) -> list[float]:
    return [sample for group in groups for sample in group]


def _resampled(groups: Sequence[Group], dice: random.Random) -> list[float]:
    """Boots differ by more than the trials in one of them, so they are drawn first."""
    drawn = dice.choices(groups, k=len(groups)) if len(groups) > 1 else groups
    return [sample for group in drawn for sample in dice.choices(group, k=len(group))]
