"""The leading components of a pool that several processes share, and how much of its variance they hold."""

from __future__ import annotations

import torch
from torch import Tensor

from immiscible.couplings.distributed.ranks import Ranks
from immiscible.couplings.protocol import rows
from immiscible.couplings.solvers.slabs import SAMPLE, leading_components, parts_held, share_of


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
