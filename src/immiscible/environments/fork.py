"""How well a policy has learnt the fork, whose law is known: see :mod:`immiscible.data.demonstrations.fork`.

A policy that was trained on ``fork`` plans many times after each of many observations that no demonstration began
with. Each plan is of the way, left or right, whose mean path is nearer. What the shares, means and variances of the
plans should be is known, so nothing has to be estimated but them. An exact policy, :func:`exact`, has the scores that
are left to chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from immiscible.data.demonstrations.fork import NOISE, STEPS, centres, observe, share
from immiscible.environments.rollouts import Act
from immiscible.errors import InputError
from immiscible.seeds import derive, seeded

# How many states a policy observes. Plans begin with the oldest, as in roll-outs.
HISTORY = 2
# How many plans are made at once, and in how many bins calibration is measured.
AT_ONCE, BINS = 1000, 10
# A plan this many times farther from both ways than demonstrations are is of neither.
STRAY = 3


@dataclass(frozen=True)
class Bin:
    """Observations after which the policy goes left about equally often.

    Attributes:
        observations: How many they are.
        planned: The mean share of plans that go left.
        true: The mean share that there should be.
    """

    observations: int
    planned: float
    true: float


@dataclass(frozen=True)
class ForkScores:
    """How far the plans' law is from the fork's. All but ``spread``, which should be 1, should be near 0.

    Attributes:
        share_error: The mean over observations of how far the share of plans that go left is from the true one.
        calibration_error: The expected calibration error: the same difference of means within ``bins`` of observations
            with like shares, weighted by their numbers. A policy that tosses a coin whatever it sees is calibrated.
        mean_error: The root mean square over observations, steps and coordinates of how far the mean plan is from the
            true mean.
        variance_error: The mean difference of variances over the mean of the true ones.
        spread: How far plans are from the mean path of their way, as a root mean square, over the same of the law.
        strays: The share of plans that are of neither way: three times as far from both as demonstrations are.
        bins: What ``calibration_error`` is made of.
    """

    share_error: float
    calibration_error: float
    mean_error: float
    variance_error: float
    spread: float
    strays: float
    bins: tuple[Bin, ...]

    def as_json(self) -> dict[str, Any]:
        """All of it, as it is written to files."""
        return asdict(self)


def score_on_fork(act: Act, *, observations: int = 100, plans: int = 100, seed: int = 0) -> ForkScores:
    """Measures a policy on the fork.

    Arguments:
        act: The policy, as for roll-outs: it is given observations with shape (N, 2, 3) and a seed for each plan, and
            returns plans with shape (N, 16, 2).
        observations: How many observations are planned from, at least one.
        plans: How many plans are made from each, at least two.
        seed: The seed of the observations and of the noise.

    Raises:
        InputError: If there are too few, or the plans have another shape or are not finite.
    """
    if observations < 1 or plans < 2:
        raise InputError(f"the fork needs an observation and two plans at least, got {observations} and {plans}.")
    seen = observe(observations, derive(seed, "observations of an evaluation"))
    made = _plan(act, seen, plans, seed)
    ways = centres(seen)[:, :, : made.shape[2]].double()
    off = (made.unsqueeze(2) - ways.unsqueeze(1)).square().mean((3, 4)).sqrt()
    nearest, way = off.min(2)
    planned, true = (way == 0).double().mean(1), share(seen).double()
    mean, variance = _moments(ways, true)
    calibration_error, bins = _calibration(planned, true)
    return ForkScores(
        share_error=float((planned - true).abs().mean()),
        calibration_error=calibration_error,
        mean_error=float((made.mean(1) - mean).square().mean().sqrt()),
        variance_error=float((made.var(1) - variance).abs().mean() / variance.mean()),
        spread=float(nearest.square().mean().sqrt() / NOISE),
        strays=float((nearest > STRAY * NOISE).double().mean()),
        bins=bins,
    )


def exact(observations: Tensor, draws: Sequence[torch.Generator | int]) -> Tensor:
    """The policy that plans by the law of the fork from its beginning on, with shape (N, 16, 2)."""
    sources = [draw if isinstance(draw, torch.Generator) else seeded(draw) for draw in draws]
    noise = torch.stack([torch.randn(STEPS, 2, generator=source) for source in sources])
    tossed = torch.stack([torch.rand((), generator=source) for source in sources])
    seen = observations[:, -1].cpu()
    paths = centres(seen)[torch.arange(len(seen)), (tossed >= share(seen)).long()]
    # The oldest observation stands for one before the beginning, and so does its action.
    paths = (paths + NOISE * noise)[:, : STEPS - HISTORY + 1]
    return torch.cat([paths[:, :1].expand(-1, HISTORY - 1, -1), paths], 1)


def _plan(act: Act, seen: Tensor, plans: int, seed: int) -> Tensor:
    """What of the plans after each observation is carried out from its time on, with shape (N, plans, steps, 2)."""
    repeated = seen.repeat_interleave(plans, 0).unsqueeze(1).expand(-1, HISTORY, -1)
    draws = [derive(seed, "plan", *divmod(number, plans)) for number in range(len(repeated))]
    made = []
    with torch.no_grad():
        for first in range(0, len(repeated), AT_ONCE):
            these = slice(first, first + AT_ONCE)
            made.append(act(repeated[these], draws[these]).cpu().double())
    whole = torch.cat(made)
    if whole.shape != (len(repeated), STEPS, 2):
        raise InputError(f"plans must have shape ({len(repeated)}, {STEPS}, 2), got {tuple(whole.shape)}.")
    if not whole.isfinite().all():
        raise InputError("plans must be finite, got others: has the training diverged?")
    return whole[:, HISTORY - 1 :].view(len(seen), plans, -1, 2)


def _moments(ways: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the variance of paths after each observation, both with shape (N, steps, 2)."""
    chance = left.view(-1, 1, 1)
    apart = ways[:, 0] - ways[:, 1]
    return ways[:, 1] + chance * apart, chance * (1 - chance) * apart.square() + NOISE**2


def _calibration(planned: Tensor, true: Tensor) -> tuple[float, tuple[Bin, ...]]:
    """The expected calibration error, and the bins that are not empty."""
    number = (planned * BINS).long().clamp(max=BINS - 1)
    bins = []
    for each in number.unique():
        there = number == each
        bins.append(Bin(int(there.sum()), float(planned[there].mean()), float(true[there].mean())))
    error = math.fsum(each.observations * abs(each.planned - each.true) for each in bins) / len(planned)
    return error, tuple(bins)
