"""The micro-batches of a process, by step and number, the next of which is made ready while one is trained on."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from immiscible.config.groups import RunConfig
from immiscible.data.threads import ahead
from immiscible.training.data_order import DataOrder
from immiscible.training.sources import Drawn, Position, Source

# Micro-batches of fewer bytes gain too little to be measured.
WORTH = 2**18


@runtime_checkable
class Fetching(Source, Protocol):
    """A source whose draws have a part on the host that may go on in another thread."""

    @property
    def device(self) -> torch.device:
        """Where what is drawn is put."""
        ...

    def bytes_of(self, count: int) -> int:
        """How many bytes are fetched for that many data."""
        ...

    def fetch(self, indices: Tensor, position: Position) -> tuple[Tensor, ...]:
        """Reads the data with some indices into memory.

        Arguments:
            indices: Which ones, with shape (B,).
            position: The step, the micro-batch and the rank that all randomness is derived from.
        """
        ...

    def place(self, fetched: tuple[Tensor, ...], position: Position) -> Drawn:
        """What :meth:`~immiscible.training.sources.Source.draw` gives, from what was fetched for it."""
        ...


class Batches:
    """The micro-batches that a process takes of its data.

    What is fetched ahead depends on the order of the run alone, so the batches are the same to the bit.

    Arguments:
        source: The data.
        config: The order and the sizes of batches.
        rank: The number of this process.
        ranks: The number of processes.
    """

    def __init__(self, source: Source, config: RunConfig, rank: int, ranks: int) -> None:
        self.source, self.accumulation, self.rank, self.ranks = source, config.accumulation, rank, ranks
        self.order = DataOrder(len(source), config.batch_size, config.seed)
        count = config.batch_size // config.accumulation // ranks
        self.ahead = isinstance(source, Fetching) and source.bytes_of(count) >= WORTH
        self.next = -1
        self._fetched: Generator[tuple[Tensor, ...]] | None = None

    def draw(self, step: int, micro: int) -> Drawn:
        """The data for a micro-batch of a step."""
        flat, position = step * self.accumulation + micro, (step, micro, self.rank)
        if not self.ahead:
            return self.source.draw(self._indices(step, micro), position)
        if self._fetched is None or flat != self.next:
            self.close()
            self._fetched = ahead(self._fetches(flat))
        self.next = flat + 1
        return cast(Fetching, self.source).place(next(self._fetched), position)

    def close(self) -> None:
        """Waits for the thread, whose last batch nobody will ask for any more."""
        if self._fetched is not None:
            self._fetched.close()

    def _fetches(self, first: int) -> Generator[tuple[Tensor, ...]]:
        """What belongs to the micro-batches from one on, without end, as a pool may reach beyond the last step."""
        source = cast(Fetching, self.source)
        for flat in itertools.count(first):
            step, micro = divmod(flat, self.accumulation)
            fetched = source.fetch(self._indices(step, micro), (step, micro, self.rank))
            # From such memory a GPU copies by itself, while the host goes on.
            yield tuple(part.pin_memory() for part in fetched) if source.device.type == "cuda" else fetched

    def _indices(self, step: int, micro: int) -> Tensor:
        """The share of this process, with shape (B,)."""
        return self.order.batch(step).view(self.accumulation, self.ranks, -1)[micro, self.rank]
