"""The leading components of data, also of a pool that several processes share, and the share of variance they hold."""

from __future__ import annotations

import torch
from torch import Tensor

from immiscible.couplings.axes import principal_axes
from immiscible.couplings.distributed.ranks import Ranks
from immiscible.couplings.protocol import rows
from immiscible.couplings.solvers.slabs import COMPONENTS

# The components are fitted to this many of the data.
SAMPLE = 512


class Leading:
    r"""The leading components of a pool, fitted to a sample once they are asked for; all ranks must ask for the same.

    Arguments:
        x: The data of this rank, with shape (n, \*).
        ranks: Who shares the pool.
        counts: How many data each rank has.
    """

    def __init__(self, x: Tensor, ranks: Ranks, counts: list[int]) -> None:
        self.x, self.ranks, self.counts = x, ranks, counts
        self._fitted: tuple[Tensor, Tensor, Tensor] | None = None

    def fitted(self) -> tuple[Tensor, Tensor, Tensor]:
        """The data of this rank in float32, with shape (n, D), the mean of the sample, and the components as columns.

        The first rank finds them, in data of all ranks that are evenly spaced on each.
        """
        if self._fitted is None:
            data, (own, total) = rows(self.x).float(), self._wanted()
            every = torch.arange(own, device=data.device) * len(data) // max(own, 1)
            sample = self.ranks.concatenate(data[every], total)
            self._fitted = data, sample.mean(0), self.ranks.from_first(leading_components(sample))
        return self._fitted

    def held(self) -> float:
        """The share of the variance that they hold, in data that they were not fitted to; the same on all ranks."""
        data, mean, basis = self.fitted()
        own, _ = self._wanted()
        between = (2 * torch.arange(own, device=data.device) + 1) * len(data) // max(2 * own, 1)
        parts = parts_held(data[between] - mean, basis)
        every = self.ranks.concatenate(parts[None], [1] * self.ranks.size)
        return share_of(*self.ranks.from_first(every.sum(0)).tolist())

    def _wanted(self) -> tuple[int, list[int]]:
        """How many data are looked at, of this rank and of each."""
        wanted = [min(count, -(-SAMPLE * count // sum(self.counts))) for count in self.counts]
        return wanted[self.ranks.rank], wanted


def leading_components(sample: Tensor, count: int = COMPONENTS) -> Tensor:
    """The leading principal components of some data, fewer if the data vary along fewer.

    Arguments:
        sample: The data, with shape (m, D).
        count: How many at most.

    Returns:
        Orthonormal columns with shape (D, q), the leading one first. There is always one.
    """
    return principal_axes(sample, count).axes


def held_share(sample: Tensor) -> float:
    """The share of the variance that the leading components hold, fitted to one half of a sample, in the other half.

    In the half that they are fitted to they hold more than in all data, and of few data nearly everything.

    Arguments:
        sample: Some of the data, with shape (m, D), m at least 2.
    """
    fitted, others = sample[::2], sample[1::2]
    return share_of(*parts_held(others - fitted.mean(0), leading_components(fitted)).tolist())


def parts_held(centred: Tensor, basis: Tensor) -> Tensor:
    """The sums of squares of data along a basis and in all, with shape (2,), in float64 on the CPU."""
    # Sums of large squares would leave the range of float32, and not every device has float64.
    norms = [torch.linalg.vector_norm(values, dim=1).cpu().double() for values in (centred @ basis, centred)]
    return torch.stack([norm.square().sum() for norm in norms])


def share_of(along: float, everything: float) -> float:
    """The share of the variance, one where there is none."""
    return along / everything if everything > 0 else 1.0
