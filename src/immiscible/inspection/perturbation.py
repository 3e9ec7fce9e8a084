r"""How much a sample keeps where its start is perturbed (arXiv 2505.18521, section 4.1).

A start :math:`n` becomes :math:`n' = (n + w\,\varepsilon) / \sqrt{1 + w^2}`, with fresh noise :math:`\varepsilon` and a
weight :math:`w`, so that it stays a start that the model expects. Asked is whether the image whose features are nearest
stays the same among the data, whether its class does, and how far the features move, over how far those of unrelated
starts (:math:`w = \infty`, with the same condition) are apart. These are the floor of all three.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from immiscible.couplings.source import Normal
from immiscible.inspection.neighbours import Neighbours
from immiscible.inspection.subject import SEED, NotApplicable, Subject
from immiscible.samplers import Start
from immiscible.seeds import generator

WEIGHTS = (0.1, 0.2, 0.3, 0.5, 1.0)
REPEATS = 10
UNRELATED = math.inf


@dataclass(frozen=True)
class Kept:
    """What stays under one weight, each with its standard error over the starts.

    Attributes:
        weight: The weight; infinite for unrelated starts.
        image: The share of samples whose nearest image of the data stays the same.
        image_error: Its standard error.
        label: The same of the class of that image; None for data without classes.
        label_error: Its standard error.
        moved: How far the features move, over how far those of unrelated starts are apart.
    """

    weight: float
    image: float
    image_error: float
    label: float | None
    label_error: float | None
    moved: float

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self) | {"weight": self.weight if math.isfinite(self.weight) else "unrelated"}


def perturbation_test(
    subject: Subject,
    embed: Callable[[Tensor], Tensor],
    data: Neighbours,
    count: int,
    *,
    weights: tuple[float, ...] = WEIGHTS,
    repeats: int = REPEATS,
    seed: int = SEED,
) -> list[Kept]:
    """Perturbs starts and compares the samples with those of the starts as they were.

    Arguments:
        subject: The network.
        embed: What turns images into features.
        data: The features of the data.
        count: How many starts.
        weights: How strongly they are perturbed.
        repeats: How many times each.
        seed: The seed of starts and perturbations.

    Returns:
        What is kept under each weight; the last are unrelated starts.

    Raises:
        NotApplicable: If samples do not start from N(0, I).
    """
    start = subject.start(count, seed)
    if not isinstance(start.law, Normal):
        raise NotApplicable(f"starts are perturbed by normal noise, which those from {start.law} are not.")
    features = embed(subject.draw(start))
    origin = data.nearest(features)[1][:, 0]
    found = [
        [
            _compare(subject, embed, data, perturbed(start, weight, seed, repeat), features, origin)
            for repeat in range(repeats)
        ]
        for weight in (*weights, UNRELATED)
    ]
    means = [torch.stack(repeated).double().mean(0) for repeated in found]
    apart = means[-1][2].mean().item()
    return [_kept(weight, mean, apart, data) for weight, mean in zip((*weights, UNRELATED), means, strict=True)]


def perturbed(start: Start, weight: float, seed: int, repeat: int) -> Start:
    """The same start, perturbed; conditions and later noise stay.

    Arguments:
        start: The start.
        weight: The weight of fresh noise; infinite for nothing else.
        seed: The seed of the fresh noise.
        repeat: Its number.
    """
    noise = start.noise
    fresh = torch.randn(noise.shape, generator=generator("cpu", seed, "perturbation", repeat)).to(noise)
    if math.isfinite(weight):
        fresh = (noise + weight * fresh) / math.sqrt(1 + weight**2)
    return dataclasses.replace(start, noise=fresh)


def _compare(
    subject: Subject,
    embed: Callable[[Tensor], Tensor],
    data: Neighbours,
    start: Start,
    features: Tensor,
    origin: Tensor,
) -> Tensor:
    """Whether image and class stay, and how far the features move, with shape (3, B)."""
    now = embed(subject.draw(start))
    nearest = data.nearest(now)[1][:, 0]
    labels = nearest * 0 if data.labels is None else data.labels[nearest]
    before = origin * 0 if data.labels is None else data.labels[origin]
    return torch.stack([(nearest == origin).double(), (labels == before).double(), (now - features).norm(dim=1)])


def _kept(weight: float, means: Tensor, apart: float, data: Neighbours) -> Kept:
    """The figures of one weight, from means over repeats with shape (3, B)."""
    share = means.mean(1).tolist()
    error = (means.std(1) / math.sqrt(max(1, means.shape[1]))).tolist() if means.shape[1] > 1 else [0.0] * 3
    labelled = data.labels is not None
    return Kept(
        weight,
        share[0],
        error[0],
        share[1] if labelled else None,
        error[1] if labelled else None,
        share[2] / apart if apart else 0.0,
    )
