r"""How straight the paths of a model are, and what few steps cost for that.

On the clock that all systems share (:mod:`immiscible.samplers.walk`) a path has the velocity :math:`v = \hat x -
\hat n`. Its *curvature* is how much of the velocity is not its mean along the path,

.. math:: \frac{\mathrm{E} \int |v_\tau - \bar v|^2\,d\tau}{\mathrm{E} |\bar v|^2}, \qquad \bar v = \int v_\tau\,d\tau,

the straightness of rectified flows (arXiv 2209.03003, section 2.2) over the squared length. It is 0 for straight
paths, where one step is exact. The *error of n steps* is the mean squared difference per value between samples drawn
in n steps and as exactly as can be, from the same starts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from immiscible.inspection.subject import SEED, Subject
from immiscible.samplers import Moment

STEPS = 100
COUNTS = (1, 2, 3, 4, 5, 7, 10, 14, 20, 28, 50)


@dataclass(frozen=True)
class Curvature:
    """How much paths bend.

    Attributes:
        curvature: The share of the velocity that is not its mean; 0 is straight.
        error: Its standard error over the paths.
        times: The times of the steps.
        profile: The same at each time, without the integral: where paths bend.
    """

    curvature: float
    error: float
    times: list[float]
    profile: list[float]

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self)


def curvature(subject: Subject, count: int, steps: int = STEPS, seed: int = SEED) -> Curvature:
    """Measures how much paths bend.

    Arguments:
        subject: The network.
        count: How many paths.
        steps: Into how many steps they are cut.
        seed: The seed of the starts.

    Raises:
        NotApplicable: If the system has no paths, or fresh noise comes in on them.
    """
    subject.check_smooth()
    times: list[float] = []
    squares, lengths = [], []
    for part in subject.follow(subject.start(count, seed), steps):
        moments = list(part)
        times = [moment.time for moment in moments]
        weights = torch.tensor([*times[1:], 1.0]) - torch.tensor(times)
        velocity = torch.stack([_velocity(moment) for moment in moments])
        mean = (weights[:, None, None] * velocity).sum(0) / weights.sum()
        squares.append((velocity - mean).square().sum(2))
        lengths.append(mean.square().sum(1))
    bends, length = torch.cat(squares, 1), torch.cat(lengths).mean()
    each = (weights[:, None] * bends).sum(0) / weights.sum() / length  # pyright: ignore[reportPossiblyUnboundVariable]
    error = (each.std() / count**0.5).item() if count > 1 else 0.0
    return Curvature(each.mean().item(), error, times, (bends.mean(1) / length).tolist())


def _velocity(moment: Moment) -> Tensor:
    """The velocity on the shared clock, with shape (B, D)."""
    return (moment.datum - moment.noise).flatten(1).double().cpu()


@dataclass(frozen=True)
class FewSteps:
    """What few steps cost.

    Attributes:
        steps: The numbers of steps.
        errors: The mean squared difference per value to the exact samples, at each.
        apart: The same between exact samples of different starts.
    """

    steps: list[int]
    errors: list[float]
    apart: float

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self)


def few_steps(subject: Subject, count: int, counts: tuple[int, ...] = COUNTS, seed: int = SEED) -> FewSteps:
    """Compares samples of few steps with exact ones from the same starts.

    Arguments:
        subject: The network.
        count: How many starts.
        counts: The numbers of steps.
        seed: The seed of the starts.

    Raises:
        NotApplicable: If more steps do not come closer to one answer.
    """
    start = subject.start(count, seed)
    exact = subject.solve(start)
    errors = [(subject.decode(subject.ends(start, steps)) - exact).square().mean().item() for steps in counts]
    return FewSteps(list(counts), errors, (exact - exact.roll(1, 0)).square().mean().item())
