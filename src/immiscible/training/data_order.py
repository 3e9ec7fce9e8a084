"""The order in which a run sees its data: shuffled epochs end to end, derived from the seed and the step alone."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from immiscible.seeds import generator


class DataOrder:
    """Which data each step sees.

    Every epoch is a new permutation of the whole data set, and a batch may span two epochs, so that all batches are
    full and nothing is dropped. The order of a step is known without walking through the steps before it.

    Arguments:
        count: The size of the data set, at least 1.
        batch_size: The data per step.
        seed: The seed of the run.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count = count
        self.batch_size = batch_size
        self._epoch = functools.lru_cache(maxsize=2)(
            lambda epoch: torch.randperm(count, generator=generator("cpu", seed, "order", epoch))
        )

    def batch(self, step: int) -> Tensor:
        """The indices of the data of one step, counted from 0, with shape (batch_size,)."""
        positions = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = positions // self.count
        parts = [
            self._epoch(int(epoch))[positions[epochs == epoch] % self.count] for epoch in epochs.unique(sorted=True)
        ]
        return torch.cat(parts)
