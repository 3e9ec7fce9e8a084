"""What the network predicts at each step (arXiv 2406.12303, figure 3; arXiv 2505.18521, figure 8).

Where many images are mixed at a noisy point, the best prediction there is their mean: a blurred image, the same for
all starts. The sooner predicted images look like data, the less is mixed, which FID of the predicted images at each
step says in one number.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from immiscible.evaluation.scores import Reference, frechet_distance
from immiscible.inspection.subject import SEED, Subject

STEPS = 20
# Noise is shown such that two standard deviations are black or white.
CONTRAST = 0.5


@dataclass(frozen=True)
class Strip:
    """What is there at each of some steps of one sample, as images in [-1, 1] with shape (S, C, H, W).

    Attributes:
        times: The share of the datum in the noisy point, 0 for noise and 1 for data, for each step.
        points: The noisy points, brought to the size of noise and data.
        noises: The predicted noise.
        data: The predicted images.
    """

    times: list[float]
    points: Tensor
    noises: Tensor
    data: Tensor

    def rows(self) -> Tensor:
        """All of it in three rows, with shape (3 S, C, H, W)."""
        return torch.cat([self.points, self.noises, self.data])


def step_by_step(subject: Subject, steps: int = STEPS, number: int = 0, seed: int = SEED) -> Strip:
    """Follows one sample.

    Arguments:
        subject: The network.
        steps: The number of steps.
        number: Which sample.
        seed: The seed of its noise.

    Raises:
        NotApplicable: If the system has no paths.
    """
    start = subject.start(number + 1, seed)[number : number + 1]
    moments = [moment for part in subject.follow(start, steps) for moment in part]
    size = [(moment.level.signal**2 + moment.level.spread**2) ** 0.5 for moment in moments]
    points = torch.cat([moment.point / scale for moment, scale in zip(moments, size, strict=True)])
    noises = torch.cat([moment.noise for moment in moments])
    data = torch.cat([moment.datum for moment in moments])
    return Strip(
        [moment.time for moment in moments],
        subject.decode(points) * _contrast(subject),
        subject.decode(noises * subject.scale) * _contrast(subject),
        subject.decode(data),
    )


def _contrast(subject: Subject) -> float:
    """How strongly noise is shown; what a decoder makes of noise is an image already."""
    return 1.0 if subject.row.prompted else CONTRAST


@dataclass(frozen=True)
class StepScores:
    """FID of predicted images at each step.

    Attributes:
        times: The share of the datum in the noisy point at each step.
        fid: FID of the images that are predicted there.
        samples: How many paths were followed.
    """

    times: list[float]
    fid: list[float]
    samples: int

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self)


def fid_by_step(subject: Subject, reference: Reference, count: int, steps: int = STEPS, seed: int = SEED) -> StepScores:
    """Scores the predicted images of each step against the data.

    Arguments:
        subject: The network.
        reference: The data, as features.
        count: How many paths to follow.
        steps: The number of steps.
        seed: The seed of the noise.

    Raises:
        NotApplicable: If the system has no paths.
        NotFinite: If a prediction is not finite.
    """
    features: list[list[Tensor]] = [[] for _ in range(steps)]
    times = [0.0] * steps
    for moments in subject.follow(subject.start(count, seed), steps, at_once=256):
        for step, moment in enumerate(moments):
            times[step] = moment.time
            features[step].append(reference.embed(subject.task.decode(moment.datum)))
    return StepScores(times, [frechet_distance(torch.cat(parts), reference.values) for parts in features], count)
