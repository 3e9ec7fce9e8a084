"""Fills one pool after the other from the batches of a loader, and gives each batch what draws its noise.

The noise of a place of a pool is drawn from the seed of the pool plus the place, so that any rank draws any of it. Data
of several shapes are as many lists, one after the other, each paired by itself.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from immiscible.couplings.distributed.ranks import note_pool, note_single, together
from immiscible.couplings.loader_flags import Given
from immiscible.couplings.pooling import Paired, PoolPairer, View
from immiscible.couplings.protocol import check_inputs
from immiscible.errors import InputError

# Noise that is only ranked is drawn this many at a time.
PIECE = 256
# The most dimensions of one datum.
DIMS = 63

Shape = tuple[int, ...]
Read = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Reader:
    """What to read in a batch.

    Attributes:
        data: Takes the data out of it.
        labels: Takes the class of each out of it, or None.
        fetch: Makes a batch of what the loader gives, where that is indices.
    """

    data: Callable[[Any], Tensor]
    labels: Callable[[Any], Tensor] | None
    fetch: Callable[[Any], Any]

    def read(self, given: Any) -> Read:
        """The data of a batch and their classes, checked but for being finite, which the pairing sees."""
        batch = self.fetch(given)
        x, labels = self.data(batch), self.labels(batch) if self.labels is not None else None
        check_inputs(x, x, labels, None)
        if self.labels is not None and labels is None:
            raise InputError("`labels` must give the class of each datum of a batch, got None.")
        return x, labels


@dataclass(frozen=True)
class DatumNoise:
    r"""The noise of a pool, each place from a seed of its own.

    Attributes:
        seed: That of place 0.
        like: No data, with shape (0, \*), and the dtype and device of the noise.
    """

    seed: int
    like: Tensor

    def pieces(self, first: int, last: int) -> Iterator[Tensor]:
        """The noise from one place to another, some at a time."""
        return (self.drawn(range(place, min(place + PIECE, last))) for place in range(first, last, PIECE))

    def at(self, places: Tensor, view: View) -> Tensor:
        """What a view shows of the noise of some places, a row each."""
        return view(self.drawn(places.tolist()))

    def drawn(self, places: Sequence[int]) -> Tensor:
        """The noise of some places, a row each."""
        noise = self.like.new_empty(len(places), *self.like.shape[1:])
        draws = torch.Generator(self.like.device)
        for row, place in zip(noise.unbind(), places, strict=True):
            row.normal_(generator=draws.manual_seed(self.seed + place))
        return noise


@dataclass(frozen=True)
class Shaped:
    """The data of one shape in a pool, which are being paired.

    Attributes:
        noise: The noise of all ranks.
        paired: Which takes which.
        sizes: How many data each batch of this rank has.
    """

    noise: DatumNoise
    paired: Paired
    sizes: list[int]

    def noises(self) -> Iterator[Callable[[], Tensor]]:
        """Waits for the assignment, and gives for each batch what draws its noise."""
        own, first = self.paired.order().split(self.sizes), self.paired.own.start
        for size, places in zip(self.sizes, own, strict=True):
            yield partial(self._drawn, range(first, first + size), places)
            first += size

    def _drawn(self, own: range, places: Tensor) -> Tensor:
        """The noise of data at some places, given the places that it comes from."""
        return self.paired.merged(self.paired.chosen(places), partial(self.noise.drawn, own))


@dataclass(frozen=True)
class Filled:
    """A pool that is being paired, the data of each shape by themselves.

    Attributes:
        batches: What the loader of this rank gave for it.
        shapes: The shape of the data of each of these.
        shaped: The data of each shape.
    """

    batches: list[Given]
    shapes: list[Shape]
    shaped: dict[Shape, Shaped]

    def noises(self) -> list[Callable[[], Tensor]]:
        """Waits for the assignments; all ranks must ask.

        Returns:
            For each batch what draws its noise.
        """
        drawing = {shape: iter(list(shaped.noises())) for shape, shaped in self.shaped.items()}
        return [next(drawing[shape]) for shape in self.shapes]


class Filling:
    """Fills one pool after the other from the batches of a loader.

    Arguments:
        pairer: Pairs them.
        reader: What to read in a batch.
        size: The data of a pool, over all ranks.
        seed: The seed of all noise; the first rank's counts.
        batches: The loader of this rank.
    """

    def __init__(self, pairer: PoolPairer, reader: Reader, size: int, seed: int, batches: Iterator[Given]) -> None:
        self.pairer, self.reader, self.seed, self.batches = pairer, reader, seed, batches
        self.ranks = pairer.ranks
        self.share = -(-size // self.ranks.size)
        # No data and no classes, as the last ones were: what a rank brings that has none of a shape.
        self._none: Read | None = None

    def skip(self, count: int) -> int:
        """Passes over this many batches, or as many as there are; returns how many."""
        last = deque(enumerate(itertools.islice(self.batches, count), 1), maxlen=1)
        if last:
            self._read(last[0][1])
        return last[0][0] if last else 0

    @torch.no_grad()
    def next(self, number: int) -> Filled | None:
        """Fills the next pool and begins to pair it; None at the end of the loaders of all ranks.

        Arguments:
            number: The number of the pool, which its seeds follow from.

        Raises:
            InputError: If a batch does not fit, of any rank.
        """
        batches, read = together(self.ranks, self._taken)
        shapes = [tuple(x.shape[1:]) for x, _ in read]
        every = self._shapes(sorted(set(shapes)))
        if not every:
            return None
        place, coin, seed = self._draws(number)
        of_shape = {shape: [one for one, own in zip(read, shapes, strict=True) if own == shape] for shape in every}
        # Data of one shape are let go before those of the next are paired.
        del read
        shaped: dict[Shape, Shaped] = {}
        total = 0
        for shape in every:
            x, labels, sizes = self._joined(shape, of_shape.pop(shape))
            noise = DatumNoise(place + total, x.new_empty(0, *shape))
            shaped[shape] = Shaped(noise, self.pairer.begin(x, labels, noise, coin, seed), sizes)
            total += shaped[shape].paired.total
        self._note([one.paired for one in shaped.values()], total)
        return Filled(batches, shapes, shaped)

    def _note(self, paired: list[Paired], total: int) -> None:
        """Logs once what the pools are like."""
        pending = [one.pending for one in paired if one.pending is not None]
        if pending:
            note_single(self.ranks, sum(one.alone for one in pending), total)
        note_pool(self.ranks, total)

    def _taken(self) -> tuple[list[Given], list[Read]]:
        """What this rank brings to the next pool: what the loader gave, and the data of each of these."""
        batches: list[Given] = []
        read: list[Read] = []
        count = 0
        while count < self.share and (given := next(self.batches, None)) is not None:
            batches.append(given)
            read.append(self._read(given))
            count += len(read[-1][0])
        if self._none is None:
            raise InputError("the loader must give at least one batch, got none.")
        return batches, read

    def _read(self, given: Given) -> Read:
        x, labels = self.reader.read(given.batch)
        # Views would keep all of them in memory.
        self._none = x.new_empty(0), None if labels is None else labels.new_empty(0)
        return x, labels

    def _joined(self, shape: Shape, read: list[Read]) -> tuple[Tensor, Tensor | None, list[int]]:
        """The data of one shape of several batches, their classes, and how many each batch has."""
        if not read:
            assert self._none is not None
            x, labels = self._none
            return x.new_empty(0, *shape), labels, []
        classes = [labels for _, labels in read if labels is not None]
        return torch.cat([x for x, _ in read]), torch.cat(classes) if classes else None, [len(x) for x, _ in read]

    def _shapes(self, own: list[Shape]) -> list[Shape]:
        """The shapes of the data of all ranks, in one order on all, given those of this rank."""
        if self.ranks.size == 1:
            return own
        counts = [count for (count,) in self.ranks.facts([len(own)])]
        if not any(counts):
            return []
        # Each as the number of its dimensions, those, and zeros.
        sent = torch.zeros(len(own), 1 + DIMS, dtype=torch.int64, device="cpu")
        for row, shape in zip(sent, own, strict=True):
            row[: 1 + len(shape)] = torch.tensor([len(shape), *shape], device="cpu")
        every = self.ranks.concatenate(sent, counts).tolist()
        return sorted({tuple(shape[:dims]) for dims, *shape in every})

    def _draws(self, number: int) -> tuple[int, float, int]:
        """The seed of the noise of a pool, its coin in [0, 1), and the seed of solving it, as the first rank has it."""
        words = np.random.SeedSequence(self.seed, spawn_key=(number,)).generate_state(3, np.uint64) >> 33
        # Generators of the CPU take 32 bits of a seed, so these and the places fit together.
        own = torch.tensor(words.astype(np.int64), device="cpu")
        place, coin, solving = self.ranks.from_first(own).tolist()
        return place, coin / 2**31, solving
