r"""Laguerre cells: normal space cut into parts of given mass, one for each of a few centres.

For centres :math:`m_j` of data and a potential :math:`b_j` each, a point :math:`u` belongs to the cell

.. math:: L_j = \{u : \langle u, m_j \rangle + b_j \ge \langle u, m_k \rangle + b_k \text{ for all } k\}.

There is one choice of potentials, up to a constant, at which the cell of each centre has the normal mass of its
weight :math:`w_j`; it is the optimal transport of :math:`N(0, I)` to the weighted centres (semidiscrete, Brenier). It
is found by stochastic ascent of the dual: what falls into a cell too often makes it smaller,

.. math:: b_j \leftarrow b_j + \eta_t\, (w_j - p_j) / w_j,

with the shares :math:`p_j` of fresh normal draws, steps that shrink as :math:`t^{-0.6}`, and the mean of the second
half of the way as the result.

How far a choice is from the weights is :math:`\chi^2 = V \sum_j (p_j - w_j)^2 / w_j / (K - 1)` over :math:`V` further
draws. Chance alone gives one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Lloyd's iterations, on this many of the data at most.
ROUNDS, POINTS = 25, 16_384
# Steps of the ascent, the draws of each for every cell, and the step from which on they become shorter.
STEPS, DRAWS, LONG_STEPS, POWER = 800, 16, 20, 0.6
# What an ascent may add to the potential of a cell that is far too large, in steps.
LEAST_ASCENT = -4.0
# The draws for every cell that are counted in the end.
COUNTED = 256
# How many scores, and how many numbers of draws, are in memory at once.
SCORES, VALUES = 2**22, 2**26


def centres_of(points: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """Centres of data by Lloyd's iterations from data chosen at random (k-means).

    Arguments:
        points: The data, with shape (N, r).
        count: How many centres at most.
        draws: Chooses where to begin.

    Returns:
        The centres, with shape (K, r): fewer than asked for where there are fewer data, or some have none.
    """
    some = points[torch.randperm(len(points), generator=draws, device=points.device)[:POINTS]]
    centres = some[:count].clone()
    for _ in range(ROUNDS):
        nearest = nearest_of(some, centres)
        sums = torch.zeros_like(centres).index_add_(0, nearest, some)
        held = torch.bincount(nearest, minlength=len(centres))
        centres = sums[held > 0] / held[held > 0, None]
    return centres


def nearest_of(points: Tensor, centres: Tensor, potentials: Tensor | None = None) -> Tensor:
    """The nearest centre of each point with shape (N, r), or with potentials the cell that it is in."""
    if potentials is None:
        # The centre of least distance is that of the largest score with these.
        potentials = -centres.square().sum(1) / 2
    chunks = points.split(max(1, SCORES // len(centres)))
    return torch.cat([largest_of(torch.addmm(potentials, chunk, centres.T)) for chunk in chunks])


def largest_of(scores: Tensor) -> Tensor:
    """Where the largest score of each row is. On the CPU NumPy finds it several times faster than torch."""
    return torch.from_numpy(scores.numpy().argmax(1)) if scores.device.type == "cpu" else scores.argmax(1)


def ascend(
    centres: Tensor, weights: Tensor, draws: torch.Generator, steps: int = STEPS, drawn: int | None = None
) -> Tensor:
    """The potentials at which the cells have the mass of their weights, with shape (K,).

    Arguments:
        centres: The centres, with shape (K, r).
        weights: The weight of each, positive, with shape (K,); they sum to one.
        draws: Draws normal points.
        steps: The steps of the ascent.
        drawn: How many points each step draws; by default 16 for every cell.
    """
    count = len(centres)
    potentials, total = torch.zeros_like(weights), torch.zeros_like(weights)
    if count == 1:
        return potentials
    spread = (centres - weights @ centres).square().sum(1).mean().sqrt()
    longest = spread / math.sqrt(2 * math.log(count))
    for step in range(steps):
        ascent = 1 - shares(centres, potentials, drawn or count * DRAWS, draws) / weights
        pace = min(1.0, (LONG_STEPS / (step + 1)) ** POWER)
        potentials += longest * pace * ascent.clamp_min(LEAST_ASCENT)
        if step >= steps // 2:
            total += potentials
    return total / (steps - steps // 2)


def shares(centres: Tensor, potentials: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """Which share of that many normal draws falls into each cell, with shape (K,)."""
    found = torch.zeros(len(centres), dtype=torch.int64, device=centres.device)
    most = max(1, VALUES // centres.shape[1])
    for first in range(0, count, most):
        shape = min(most, count - first), centres.shape[1]
        points = torch.randn(shape, generator=draws, device=centres.device, dtype=centres.dtype)
        found += torch.bincount(nearest_of(points, centres, potentials), minlength=len(centres))
    return found / count


def chi_square(
    centres: Tensor, potentials: Tensor, weights: Tensor, draws: torch.Generator, count: int | None = None
) -> float:
    """How far the mass of the cells is from their weights, over further draws; 1 is chance.

    Arguments:
        centres: The centres, with shape (K, r).
        potentials: The potential of each, with shape (K,).
        weights: The weight of each, with shape (K,).
        draws: Draws normal points.
        count: How many; by default 256 for every cell.
    """
    count = count or COUNTED * len(weights)
    found = shares(centres, potentials, count, draws)
    return (count * (found - weights).square() / weights).sum().item() / max(len(weights) - 1, 1)
