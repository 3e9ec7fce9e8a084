"""Means and shares over scenes with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from immiscible.errors import InputError

# How often scenes are drawn again for an interval, and the seed of it: the same numbers have the same interval.
RESAMPLES, SEED = 10_000, 0
# Nineteen twentieths of a normal law lie within this many standard deviations.
QUANTILE = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """A number that was measured on some scenes, and its 95 % interval from ``low`` to ``high``."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(numbers: Sequence[float]) -> Interval:
    """The mean of one number a scene, with its bootstrap percentile interval over scenes.

    Arguments:
        numbers: The numbers, at least one; of differences, those of pairs.

    Raises:
        InputError: If there are none.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    values = _some(numbers)
    draws = np.random.default_rng(SEED)
    means = [values[draws.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def share_interval(hits: Sequence[bool]) -> Interval:
    """The share of scenes of which something holds, with its Wilson score interval.

    Arguments:
        hits: Whether it holds, for each scene, at least one.

    Raises:
        InputError: If there are none.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    share, count = float(_some(hits).mean()), len(hits)
    scale = 1 + QUANTILE**2 / count
    middle = (share + QUANTILE**2 / (2 * count)) / scale
    reach = QUANTILE / scale * math.sqrt(share * (1 - share) / count + QUANTILE**2 / (4 * count**2))
    return Interval(share, max(0.0, middle - reach), min(1.0, middle + reach))


def _some(numbers: Sequence[float]) -> np.ndarray:
    if not len(numbers):
        raise InputError("an interval needs at least one scene, got none.")
    return np.asarray(numbers, np.float64)
