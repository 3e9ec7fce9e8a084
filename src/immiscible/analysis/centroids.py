r"""The centroid distance: how far apart the mean noises of different data are.

Published (arXiv 2505.18521) as 0.92 for independent noise, 2.17 for KNN and 4.11 for the assignment on CIFAR-10. With m
noises for each datum, the mean noises of independent pairs lie :math:`\sqrt{2D/m}` apart although their expectations
are the same, and 0.92 is that floor at :math:`D = 3072` for an m of about 7,260. So the distance says little by itself.
Here the noises are split in two halves, whose differences :math:`d_1, d_2` between two data have independent errors:
:math:`E\langle d_1, d_2\rangle` is the square distance of the expectations, without a floor.

The number of data and noises, the batch and the scale of the data are not published; all of them change the figure, and
are stated in the result.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from immiscible.analysis.sampling import Data, Progress, check_counts, check_data, some, take
from immiscible.couplings import Coupling
from immiscible.couplings.parsing import parse_coupling
from immiscible.errors import InputError
from immiscible.seeds import generator


@dataclass(frozen=True)
class Centroids:
    """How far apart mean noises are.

    Attributes:
        coupling: The spelling of the coupling.
        distance: The root mean square distance between the mean noises of two data, floor and all; as published.
        floor: The part of it that is sampling error, from independent halves.
        expected_floor: That floor for independent noise, sqrt(2D/m).
        corrected: The distance of the expectations, the root of ``square`` where that is positive, else 0.
        square: The mean square distance of the expectations, without bias, so negative at times.
        square_error: Its standard error over the data.
        images: How many data, k.
        noises: How many noises each got, m.
        batch_size: The data paired at once.
        dims: The dimension D.
        deviation: The standard deviation of the data's values, which the distance grows with.
    """

    coupling: str
    distance: float
    floor: float
    expected_floor: float
    corrected: float
    square: float
    square_error: float
    images: int
    noises: int
    batch_size: int
    dims: int
    deviation: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class CentroidSampling:
    """What centroids are taken of.

    Attributes:
        images: How many data, at least 2; they are in every batch.
        noises: How many noises for each, even.
        batch_size: The data paired at once; the others of a batch are drawn for each.
    """

    images: int = 32
    noises: int = 512
    batch_size: int = 128


@torch.no_grad()
def centroids(
    data: Data,
    coupling: str | Coupling,
    sampling: CentroidSampling | None = None,
    *,
    labels: Tensor | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Centroids:
    r"""Measures the distance between the mean noises of different data.

    Arguments:
        data: The data, with shape (N, \*).
        coupling: The coupling or its spelling.
        sampling: How many data, noises and data in a batch.
        labels: The class of each datum, with shape (N,), where the coupling is to be given them.
        seed: The seed of the data and the noise.
        progress: Called with how many batches are done, and how many there are.

    Raises:
        InputError: If there are fewer than two data, or the numbers do not fit together.

    Example:
        >>> found = centroids(torch.zeros(8, 3), "independent", CentroidSampling(4, 10, 8))
        >>> round(found.expected_floor**2, 6)
        0.6
    """
    wanted, coupling = sampling or CentroidSampling(), parse_coupling(coupling)
    check_data(data, least=2)
    check_counts(images=wanted.images, noises=wanted.noises, batch_size=wanted.batch_size)
    size = min(wanted.batch_size, len(data))
    count = min(wanted.images, size)
    if count < 2 or wanted.noises % 2:
        raise InputError(f"centroids must be of two data or more, by an even number of noises, got {wanted}.")
    order = torch.randperm(len(data), generator=generator("cpu", seed, "centroids"))
    chosen, rest = order[:count], order[count:]
    sums = torch.zeros(2, count, take(data, chosen[:1])[0].numel(), dtype=torch.float64)
    for batch in range(wanted.noises):
        others = rest[some(size - count, len(rest), generator("cpu", seed, "centroid others", batch))]
        index = torch.cat([chosen, others])
        x = take(data, index)
        draws = generator(x.device, seed, "centroid noise", batch)
        noise = torch.randn(x.shape, generator=draws, dtype=x.dtype, device=x.device)
        groups = None if labels is None else labels[index.to(labels.device)].to(x.device)
        noise = coupling(x, noise, labels=groups, generator=draws)[:count]
        sums[batch % 2] += noise.flatten(1).double().cpu()
        if progress is not None:
            progress(batch + 1, wanted.noises)
    deviation = take(data, chosen).double().std().item()
    return _summed(str(coupling), sums, wanted.noises, size, deviation)


def _summed(coupling: str, sums: Tensor, noises: int, size: int, deviation: float) -> Centroids:
    """The distances, from the sums of the noises of each half, with shape (2, k, D)."""
    first, second = sums / (noises / 2)
    count, dims = first.shape
    # The mean over pairs of <a_i - a_j, b_i - b_j> is twice the covariance of the two over data.
    products = 2 * _over_pairs(first, second)
    halves = first - second
    floor = 2 * _over_pairs(halves, halves).sum() / 4
    every = (first + second) / 2
    square = products.sum()
    # The contribution of one datum, for the standard error of the mean over data.
    error = (products * count).std() / math.sqrt(count)
    return Centroids(
        coupling=coupling,
        distance=(2 * _over_pairs(every, every).sum()).sqrt().item(),
        floor=floor.sqrt().item(),
        expected_floor=math.sqrt(2 * dims / noises),
        corrected=square.clamp_min(0).sqrt().item(),
        square=square.item(),
        square_error=error.item(),
        images=count,
        noises=noises,
        batch_size=size,
        dims=dims,
        deviation=deviation,
    )


def _over_pairs(first: Tensor, second: Tensor) -> Tensor:
    """The covariance of two sets of vectors over data, one contribution for each datum, with shape (k,)."""
    return ((first - first.mean(0)) * (second - second.mean(0))).sum(1) / (len(first) - 1)
