"""One pool at a time: fills it from the batches of a loader, begins to pair it, and draws its noise from seeds.

A pool lists the data of the first rank, then those of the second, and so on; the *place* of a datum is its index in
that list. The noise of a place is drawn from the seed of the pool plus the place, so that any rank draws any of it.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from immiscible.couplings.base import check_inputs, finite_norms, full_float32
from immiscible.couplings.flags import Given
from immiscible.couplings.joint import Pending, Share, agree, begin
from immiscible.couplings.parts import Parts
from immiscible.couplings.ranks import tell
from immiscible.errors import InputError

# Noise that is only ranked is drawn in pieces of so many.
PIECE = 256


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
        x, labels = self.data(batch), None if self.labels is None else self.labels(batch)
        check_inputs(x, x, labels, None)
        with full_float32(x.device):
            finite_norms(x, x)
        return x, labels


@dataclass(frozen=True)
class Brought:
    r"""What a rank brings to a pool.

    Attributes:
        x: The data, with shape (n, \\*).
        labels: Their classes, with shape (n,), or None.
        batches: What the loader gave.
        sizes: How many data each of these has.
    """

    x: Tensor
    labels: Tensor | None
    batches: list[Given]
    sizes: list[int]

    def none(self) -> Brought:
        """No data of this kind. A view would keep all of them in memory."""
        labels = None if self.labels is None else self.labels.new_empty(0)
        return Brought(self.x.new_empty(0, *self.x.shape[1:]), labels, [], [])


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
class Filled:
    """A pool that is being paired.

    Attributes:
        parts: The assignment.
        batches: What the loader of this rank gave for it.
        sizes: How many data each of these has.
        first: The place of this rank's first datum.
        seeds: The noise.
        pending: The assignment, unless its noise stays where it is.
    """

    parts: Parts
    batches: list[Given]
    sizes: list[int]
    first: int
    seeds: Seeds
    pending: Pending | None

    def places(self) -> list[tuple[range, Tensor]]:
        """Waits for the assignment; all ranks must ask.

        Returns:
            For each batch the places of its data, and the places that their noise comes from.
        """
        if self.pending is None:
            order = torch.arange(self.first, self.first + sum(self.sizes), device="cpu")
        else:
            # A view would keep the order of all ranks.
            order = self.pending.own().clone()
        ends = (self.first + end for end in itertools.accumulate(self.sizes))
        own = [range(end - size, end) for size, end in zip(self.sizes, ends, strict=True)]
        return list(zip(own, order.split(self.sizes), strict=True))

    def noise(self, own: range, chosen: Tensor) -> Tensor:
        """The noise of data at some places, given the places that it comes from."""
        noise = self.seeds.noise(chosen.tolist())
        if not self.parts.space.is_coarse:
            return noise
        with full_float32(noise.device):
            return self.parts.space.replaced(self.seeds.noise(own), self.parts.space.coarse(noise.float()))


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
        # No data, as the last ones were: what a rank brings whose loader is at its end before those of others.
        self._none: Brought | None = None

    def skip(self, count: int) -> int:
        """Passes over so many batches, or as many as there are; returns how many."""
        last = deque(enumerate(itertools.islice(self.batches, count), 1), maxlen=1)
        if last:
            self._none = self._brought(last[0][1]).none()
        return last[0][0] if last else 0

    @torch.no_grad()
    def next(self, number: int) -> Filled | None:
        """Fills the next pool and begins to pair it; None at the end of the loaders of all ranks.

        Arguments:
            number: The number of the pool, which its seeds follow from.

        Raises:
            InputError: If a batch does not fit, of any rank.
        """
        brought, error = self._taken()
        ranks, device = self.ranks, brought.x.device
        counts = agree(brought.x, brought.labels, ranks, error)
        if not sum(counts):
            return None
        place, coin, solving = self._draws(number, device)
        seeds = Seeds(place, brought.none().x)
        pending = self._begun(brought, seeds, counts, solving) if coin < self.parts.p else None
        tell(ranks, sum(counts))
        return Filled(self.parts, brought.batches, brought.sizes, sum(counts[: ranks.rank]), seeds, pending)

    def _taken(self) -> tuple[Brought, InputError | None]:
        """What this rank brings to the next pool, and what is wrong with it."""
        taken: list[Brought] = []
        count = 0
        try:
            while count < self.share and (given := next(self.batches, None)) is not None:
                taken.append(self._brought(given))
                count += len(taken[-1].x)
            if taken:
                self._none = taken[-1].none()
            if self._none is None:
                raise InputError("the loader must give at least one batch, got none.")
            return (_together(taken) if taken else self._none), None
        except InputError as error:
            return Brought(torch.empty(0, 1, device="cpu"), None, [], []), error

    def _brought(self, given: Given) -> Brought:
        x, labels = self.reader.read(given.batch)
        return Brought(x, labels, [given], [len(x)])

    def _draws(self, number: int, device: torch.device) -> tuple[int, float, int]:
        """The seed of the noise of a pool, its coin in [0, 1), and the seed of solving it, as the first rank has it."""
        words = np.random.SeedSequence(self.seed, spawn_key=(number,)).generate_state(3, np.uint64) >> 33
        # Generators of the CPU take 32 bits of a seed, so these and the places fit together.
        place, coin, solving = self.ranks.from_first(torch.tensor(words.astype(np.int64), device=device)).tolist()
        return place, coin / 2**31, solving

    def _begun(self, brought: Brought, seeds: Seeds, counts: list[int], solving: int) -> Pending:
        def noise(first: int, last: int) -> Iterator[Tensor]:
            for place in range(first, last, PIECE):
                yield space.coarse(seeds.noise(range(place, min(place + PIECE, last))).float())

        space, method = self.parts.space, self.parts.assignment.method
        with full_float32(brought.x.device):
            share = Share(space.ranked(brought.x.float()), brought.labels, noise)
            return begin(share, self.ranks, counts, method, solving, self.executor)


def _together(taken: list[Brought]) -> Brought:
    """Several batches as one."""
    shapes = dict.fromkeys(tuple(one.x.shape[1:]) for one in taken)
    if len(shapes) > 1:
        raise InputError(f"all data of a pool must have one shape, got {', '.join(map(str, shapes))}: resize them.")
    classes = [one.labels for one in taken if one.labels is not None]
    return Brought(
        torch.cat([one.x for one in taken]),
        torch.cat(classes) if classes else None,
        [batch for one in taken for batch in one.batches],
        [size for one in taken for size in one.sizes],
    )
