r"""Which way round a policy turns the T, from starts where both are equally good.

Block and disc begin on the goal's axis, the T the wrong way round. By symmetry it may be turned clockwise or
counter-clockwise, and a policy that was trained on as many demonstrations of both (``--mirror``) should do each half of
the time. Many episodes from one such start differ in their noise only. The sign of the rotation at the end is the
*mode*; the share of the more frequent one is the *dominance*, from 0.5 to 1, and its distance from 0.5 is the total
variation from even shares. Episodes that end within a quarter turn are *undecided*.

A policy that always turns the same way has a dominance of 1. One that tosses a coin whatever it sees has 0.5 at every
start, which is not to say that it has learnt the demonstrations' modes: where both ways are not equally good it is
wrong. So several starts are looked at, and each is reported beside its coverage; shares where none is symmetric are
measured on the fork, see :mod:`immiscible.environments.fork`.

Source: arXiv 2610.09369, whose dominance keeps the order of the modes of the vanilla run; here it is the maximum of
each run, so a run whose modes have changed places does not count as an even one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from immiscible.environments.intervals import Interval, mean_interval, share_interval
from immiscible.environments.pusht import SIDE, State
from immiscible.environments.rollouts import Act, Episode, roll_out
from immiscible.seeds import derive

# How far the block lies from the middle along the axis, and the disc on either side of it, in x.
BLOCKS, DISCS = (0, -30, 30), (-150, 150)
# Less than a quarter turn decides nothing.
DECIDED = math.pi / 2


def symmetric_starts() -> list[State]:
    """States on the goal's axis with the T upside down, each its own mirror image.

    The first is the one of the protocol; the others have the block, the disc or both elsewhere on the axis.
    """
    middle = SIDE / 2
    return [
        np.array([middle + disc, middle - disc, middle + block, middle - block, 1.25 * math.pi])
        for disc in DISCS
        for block in BLOCKS
    ]


def rotation(episode: Episode) -> float:
    """By how much the T was turned from beginning to end, in radians; positive is clockwise on the screen.

    Full turns count, as long as it turns less than half of one in a step.
    """
    angles = np.unwrap(episode.states[:, 4])
    return float(angles[-1] - angles[0])


@dataclass(frozen=True, eq=False)
class Modes:
    """Which way the episodes from one start went.

    Attributes:
        start: The start, with shape (5,).
        rotations: By how much each episode turned the T, in radians.
        coverage: The largest coverage, as a mean over the episodes.
    """

    start: State
    rotations: tuple[float, ...]
    coverage: Interval

    @cached_property
    def _clockwise(self) -> list[bool]:
        return [rotation > 0 for rotation in self.rotations if abs(rotation) >= DECIDED]

    @property
    def clockwise(self) -> Interval | None:
        """The share of clockwise episodes among the decided ones; None if there are none."""
        return share_interval(self._clockwise) if self._clockwise else None

    @property
    def dominance(self) -> float | None:
        """The share of the more frequent mode among the decided episodes, from 0.5 to 1; None if there are none."""
        return None if self.clockwise is None else max(self.clockwise.value, 1 - self.clockwise.value)

    @property
    def total_variation(self) -> float | None:
        """The distance of the shares from even ones, from 0 to 0.5."""
        return None if self.dominance is None else self.dominance - 0.5

    @property
    def undecided(self) -> float:
        """The share of the episodes that decided nothing."""
        return 1 - len(self._clockwise) / len(self.rotations)

    @property
    def even_dominance(self) -> float | None:
        """The dominance to expect of this many decided episodes if both modes were equally likely."""
        return even_dominance(len(self._clockwise)) if self._clockwise else None

    def as_json(self) -> dict[str, Any]:
        """All of it, as it is written to files."""
        shares = self.clockwise
        return {
            "start": self.start.tolist(),
            "episodes": len(self.rotations),
            "clockwise": None if shares is None else [shares.value, shares.low, shares.high],
            "dominance": self.dominance,
            "even_dominance": self.even_dominance,
            "total_variation": self.total_variation,
            "undecided": self.undecided,
            "coverage": [self.coverage.value, self.coverage.low, self.coverage.high],
        }


def even_dominance(count: int) -> float:
    """The mean share of the more frequent side of a fair coin.

    Arguments:
        count: How often it is tossed, at least once.

    Example:
        >>> even_dominance(1), even_dominance(2), round(even_dominance(50), 3)
        (1.0, 0.75, 0.556)
    """
    return sum(math.comb(count, heads) * max(heads, count - heads) for heads in range(count + 1)) / (count * 2**count)


def modes_of(
    act: Act, *, episodes: int = 50, starts: Sequence[State] | None = None, seed: int = 0, max_steps: int = 300
) -> list[Modes]:
    """Rolls a policy out from starts where both ways round are equally good.

    Arguments:
        act: The policy, see :func:`immiscible.environments.rollouts.roll_out`.
        episodes: How many episodes from each start.
        starts: The starts; by default those of :func:`symmetric_starts`.
        seed: The seed of the noise. Episode ``e`` of start ``s`` depends on it, on ``e`` and on ``s``.
        max_steps: How many actions an episode has at most.

    Returns:
        The modes of each start.
    """
    found = []
    for number, start in enumerate(symmetric_starts() if starts is None else starts):
        seeds = [derive(seed, "symmetric start", number, episode) for episode in range(episodes)]
        rolled = roll_out(act, seeds, states=[start] * episodes, max_steps=max_steps)
        coverage = mean_interval([episode.largest_coverage for episode in rolled])
        found.append(Modes(start, tuple(map(rotation, rolled)), coverage))
    return found
