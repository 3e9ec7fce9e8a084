"""One pool at a time: fills it from the batches of a loader, begins to pair it, and draws its noise from seeds.

A pool lists the data of the first rank, then those of the second, and so on; the *place* of a datum is its index in
that list. The noise of a place is drawn from the seed of the pool plus the place, so that any rank draws any of it.
Data of several shapes are as many lists, one after the other, each paired by itself.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from immiscible.couplings.distributed.ranks import tell, tell_single, together
from immiscible.couplings.distributed.solve import Pending, Share, agree, begin
from immiscible.couplings.loader_flags import Given
from immiscible.couplings.parts import Parts
from immiscible.couplings.protocol import check_inputs, finite_norms, full_float32
from immiscible.couplings.spaces import Space
from immiscible.errors import InputError

# Noise that is only ranked is drawn in pieces of so many.
PIECE = 256
# The most dimensions of one datum.
DIMS = 63

Shape = tuple[int, ...]


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

    def read(self, given: Any) -> tuple[Tensor, Tensor | None]:
        """The data of a batch and their classes, checked."""
        batch = self.fetch(given)
        x, labels = self.data(batch), self.labels(batch) if self.labels is not None else None
        check_inputs(x, x, labels, None)
        if self.labels is not None and labels is None:
            raise InputError("`labels` must give the class of each datum of a batch, got None.")
        with full_float32(x.device):
            finite_norms(x, x)
        return x, labels


@dataclass(frozen=True)
class Brought:
    r"""The data of one shape that a rank brings to a pool.

    Attributes:
        x: The data, with shape (n, \\*).
        labels: Their classes, with shape (n,), or None.
        sizes: How many data each batch has.
    """

    x: Tensor
    labels: Tensor | None
    sizes: list[int]


@dataclass(frozen=True)
class Taken:
    """What a rank brings to a pool.

    Attributes:
        batches: What the loader gave.
        shapes: The shape of the data of each of these.
        brought: The data of each shape.
    """

    batches: list[Given]
    shapes: list[Shape]
    brought: dict[Shape, Brought]


@dataclass(frozen=True)
class Seeds:
    r"""The noise of a pool, by its places.

    Attributes:
        seed: That of place 0.
        like: No data, with shape (0, \\*), and the dtype and device of the noise.
    """

    seed: int
    like: Tensor

    def noise(self, places: Sequence[int]) -> Tensor:
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
        space: What they are ranked in.
        sizes: How many data each batch of this rank has.
        first: The place of this rank's first datum.
        seeds: The noise.
        pending: The assignment, unless the noise stays where it is.
    """

    space: Space
    sizes: list[int]
    first: int
    seeds: Seeds
    pending: Pending | None

    def noises(self) -> list[Callable[[], Tensor]]:
        """Waits for the assignment, and gives for each batch what draws its noise."""
        if self.pending is None:
            order = torch.arange(self.first, self.first + sum(self.sizes), device="cpu")
        else:
            # A view would keep the order of all ranks.
            order = self.pending.own().clone()
        ends = (self.first + end for end in itertools.accumulate(self.sizes))
        own = [range(end - size, end) for size, end in zip(self.sizes, ends, strict=True)]
        return [partial(self._noise, *places) for places in zip(own, order.split(self.sizes), strict=True)]

    def _noise(self, own: range, chosen: Tensor) -> Tensor:
        """The noise of data at some places, given the places that it comes from."""
        noise = self.seeds.noise(chosen.tolist())
        if not self.space.is_coarse:
            return noise
        with full_float32(noise.device):
            return self.space.replaced(self.seeds.noise(own), self.space.coarse(noise.float()))


@dataclass(frozen=True)
class Filled:
    """A pool that is being paired, the data of each shape by themselves.

    Attributes:
        batches: What the loader of this rank gave for it.
        kinds: The place in ``shaped`` of the data of each of these.
        shaped: The data of each shape.
    """

    batches: list[Given]
    kinds: list[int]
    shaped: list[Shaped]

    def noises(self) -> list[Callable[[], Tensor]]:
        """Waits for the assignments; all ranks must ask.

        Returns:
            For each batch what draws its noise.
        """
        of_kind = [iter(shaped.noises()) for shaped in self.shaped]
        return [next(of_kind[kind]) for kind in self.kinds]


class Filling:
    """Fills one pool after the other from the batches of a loader.

    Arguments:
        parts: The assignment.
        reader: What to read in a batch.
        size: The data of a pool, over all ranks.
        seed: The seed of all noise; the first rank's counts.
        batches: The loader of this rank.
        executor: Solves there, if given, and else when the assignment is asked for.
    """

    def __init__(
        self, parts: Parts, reader: Reader, size: int, seed: int, batches: Iterator[Given], executor: Executor | None
    ) -> None:
        self.parts, self.reader, self.seed = parts, reader, seed
        self.batches, self.executor = batches, executor
        self.ranks = parts.assignment.ranks()
        self.share = -(-size // self.ranks.size)
        # No data and no classes, as the last ones were: what a rank brings that has none of a shape.
        self._none: tuple[Tensor, Tensor | None] | None = None

    def skip(self, count: int) -> int:
        """Passes over so many batches, or as many as there are; returns how many."""
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
        taken = together(self.ranks, self._taken)
        shapes = self._shapes(taken)
        if not shapes:
            return None
        draws = self._draws(number)
        shaped: list[Shaped] = []
        total = 0
        for shape in shapes:
            # Data of one shape are let go before those of the next are paired.
            one, count = self._begun(taken.brought.pop(shape, None) or self._nothing(shape), total, draws)
            shaped.append(one)
            total += count
        pending = [one.pending for one in shaped if one.pending is not None]
        if pending:
            tell_single(self.ranks, sum(one.alone for one in pending), total)
        tell(self.ranks, total)
        return Filled(taken.batches, [shapes.index(shape) for shape in taken.shapes], shaped)

    def _taken(self) -> Taken:
        """What this rank brings to the next pool."""
        batches: list[Given] = []
        read: list[tuple[Tensor, Tensor | None]] = []
        count = 0
        while count < self.share and (given := next(self.batches, None)) is not None:
            batches.append(given)
            read.append(self._read(given))
            count += len(read[-1][0])
        if self._none is None:
            raise InputError("the loader must give at least one batch, got none.")
        shapes = [tuple(x.shape[1:]) for x, _ in read]
        return Taken(batches, shapes, {shape: _joined(shape, read) for shape in dict.fromkeys(shapes)})

    def _read(self, given: Given) -> tuple[Tensor, Tensor | None]:
        x, labels = self.reader.read(given.batch)
        # Views would keep all of them in memory.
        self._none = x.new_empty(0), None if labels is None else labels.new_empty(0)
        return x, labels

    def _nothing(self, shape: Shape) -> Brought:
        """No data of a shape."""
        assert self._none is not None
        x, labels = self._none
        return Brought(x.new_empty(0, *shape), labels, [])

    def _shapes(self, taken: Taken) -> list[Shape]:
        """The shapes of the data of all ranks, in one order on all."""
        shapes = sorted(taken.brought)
        if self.ranks.size == 1:
            return shapes
        counts = [count for (count,) in self.ranks.facts([len(shapes)])]
        if not any(counts):
            return []
        # Each as the number of its dimensions, those, and zeros.
        own = torch.zeros(len(shapes), 1 + DIMS, dtype=torch.int64, device="cpu")
        for row, shape in zip(own, shapes, strict=True):
            row[: 1 + len(shape)] = torch.tensor([len(shape), *shape], device="cpu")
        every = self.ranks.concatenate(own, counts).tolist()
        return sorted({tuple(shape[:dims]) for dims, *shape in every})

    def _draws(self, number: int) -> tuple[int, float, int]:
        """The seed of the noise of a pool, its coin in [0, 1), and the seed of solving it, as the first rank has it."""
        words = np.random.SeedSequence(self.seed, spawn_key=(number,)).generate_state(3, np.uint64) >> 33
        # Generators of the CPU take 32 bits of a seed, so these and the places fit together.
        own = torch.tensor(words.astype(np.int64), device="cpu")
        place, coin, solving = self.ranks.from_first(own).tolist()
        return place, coin / 2**31, solving

    def _begun(self, brought: Brought, before: int, draws: tuple[int, float, int]) -> tuple[Shaped, int]:
        """Begins to pair the data of one shape; and how many they are on all ranks.

        Arguments:
            brought: Those of this rank.
            before: How many data of other shapes come before them.
            draws: See :meth:`_draws`.
        """
        ranks, space = self.ranks, self.parts.space
        seeds = Seeds(draws[0] + before, brought.x.new_empty(0, *brought.x.shape[1:]))
        ranked, error = _ranked(space, brought.x)
        counts = agree(brought.x, brought.labels, ranks, error)

        def noise(first: int, last: int) -> Iterator[Tensor]:
            for place in range(first, last, PIECE):
                yield space.coarse(seeds.noise(range(place, min(place + PIECE, last))).float())

        pending = None
        if draws[1] < self.parts.p:
            with full_float32(brought.x.device):
                share = Share(ranked, brought.labels, noise)
                pending = begin(share, ranks, counts, self.parts.assignment.method, draws[2], self.executor)
        return Shaped(space, brought.sizes, sum(counts[: ranks.rank]), seeds, pending), sum(counts)


def _joined(shape: Shape, read: list[tuple[Tensor, Tensor | None]]) -> Brought:
    """The data of one shape of several batches."""
    x = [x for x, _ in read if x.shape[1:] == shape]
    classes = [labels for x, labels in read if x.shape[1:] == shape and labels is not None]
    return Brought(torch.cat(x), torch.cat(classes) if classes else None, [len(one) for one in x])


def _ranked(space: Space, x: Tensor) -> tuple[Tensor, Exception | None]:
    """Data as they are ranked, and what went wrong, which other ranks wait to hear of."""
    try:
        with full_float32(x.device):
            return space.ranked(x.float()), None
    except Exception as error:
        return x, error
