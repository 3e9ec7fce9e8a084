"""One pool: begins to pair its data, and draws its noise again once it is clear which datum takes which.

A pool lists the data of the first rank, then those of the second, and so on; the *place* of a datum is its index in
that list. No noise is kept and none travels: any rank draws any part of it from seeds, see :class:`Noise`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from immiscible.couplings.assignment import LinearAssignment
from immiscible.couplings.conditions import accompany
from immiscible.couplings.distributed.ranks import Ranks
from immiscible.couplings.distributed.solve import Pending, Share, agree, begin, begin_whole
from immiscible.couplings.parts import Parts
from immiscible.couplings.protocol import finite_norms, full_float32
from immiscible.couplings.spaces import Accompanied, Space

View = Callable[[Tensor], Tensor]


class Noise(Protocol):
    """The noise of a pool, the same each time and on all ranks."""

    def pieces(self, first: int, last: int) -> Iterable[Tensor]:
        r"""The noise from one place to another, in pieces of shape (m, \*)."""
        ...

    def at(self, places: Tensor, view: View) -> Tensor:
        """What a view shows of the noise of some places, a row each."""
        ...


@dataclass(frozen=True)
class Paired:
    """A pool that is being paired.

    Attributes:
        space: What it is ranked in.
        noise: The noise of all of it.
        own: The places of this rank's data.
        total: How many data it has on all ranks.
        pending: The assignment, unless the noise stays where it is.
    """

    space: Space
    noise: Noise
    own: range
    total: int
    pending: Pending | None

    def order(self) -> Tensor:
        """Waits for the assignment; all ranks must ask. Gives the place of the noise of each datum of this rank."""
        if self.pending is None:
            return torch.arange(self.own.start, self.own.stop, device="cpu")
        # A view would keep the order of all ranks.
        return self.pending.own().clone()

    def chosen(self, places: Tensor) -> Tensor:
        """The noise of some places; in a coarse space the coarse part of it."""
        return self.noise.at(places, partial(_ranked_part, self.space))

    def merged(self, chosen: Tensor, drawn: Callable[[], Tensor]) -> Tensor:
        """The noise of some data, given what was chosen for them and what draws their own."""
        if not self.space.is_coarse:
            return chosen
        noise = drawn()
        with full_float32(noise.device):
            return self.space.replaced(noise, chosen.to(noise.device))


@dataclass(frozen=True)
class PoolPairer:
    """Pairs one pool after the other.

    Attributes:
        parts: How.
        ranks: Who shares the pools.
        executor: Solves there, if given, and else when the order is asked for.
    """

    parts: Parts
    ranks: Ranks
    executor: Executor | None

    def begin(self, x: Tensor, labels: Tensor | None, noise: Noise, coin: float, seed: int) -> Paired:
        r"""Begins to pair a pool; all ranks must call it, with the same noise, coin and seed.

        Arguments:
            x: The data of this rank, with shape (n, \*).
            labels: The class of each, with shape (n,), or None on all ranks.
            noise: The noise of the pool.
            coin: In [0, 1): the pool is paired where it is below the share of pools that are.
            seed: The seed of what is random in the assignment.

        Raises:
            InputError: If the data of any rank do not fit those of the others or are not finite.
        """
        paired = coin < self.parts.p
        ranked, error = self._ranked(x, paired)
        counts = agree(x, labels, self.ranks, error)
        first = sum(counts[: self.ranks.rank])
        share = Share(ranked, labels, self._pieces(noise))
        pending = self._pending(self._accompanied(share, counts), counts, seed) if paired else None
        return Paired(self.parts.space, noise, range(first, first + len(x)), sum(counts), pending)

    def _ranked(self, x: Tensor, paired: bool) -> tuple[Tensor, Exception | None]:
        """Data as they are ranked, and what is wrong with them, which other ranks wait to hear of."""
        try:
            with full_float32(x.device):
                ranked = self.parts.space.ranked(x.float()) if paired else x
                finite_norms(ranked, ranked)
        except Exception as error:
            return x, error
        return ranked, None

    def _pieces(self, noise: Noise) -> Callable[[int, int], Iterable[Tensor]]:
        """The noise as it is ranked."""
        return lambda first, last: (_ranked_part(self.parts.space, piece) for piece in noise.pieces(first, last))

    def _accompanied(self, share: Share, counts: list[int]) -> Share:
        """What this rank brings, with what stands beside its data and beside all noise, where the space has that."""
        space = self.parts.space
        if not isinstance(space, Accompanied):
            return share
        own = space.beside()
        every = self.ranks.concatenate(own, counts)

        def noise(first: int, last: int) -> Iterator[Tensor]:
            for piece in share.noise(first, last):
                yield accompany(piece, every[first : first + len(piece)])
                first += len(piece)

        return Share(accompany(share.x, own), share.labels, noise)

    def _pending(self, share: Share, counts: list[int], seed: int) -> Pending:
        assignment = self.parts.assignment
        with full_float32(share.x.device):
            if isinstance(assignment, LinearAssignment):
                share = replace(share, x=assignment.toward(share.x))
                return begin(share, self.ranks, counts, assignment.method, seed, self.executor)
            return begin_whole(share, self.ranks, counts, assignment, seed, self.executor)


def _ranked_part(space: Space, noise: Tensor) -> Tensor:
    """Noise as it is ranked."""
    if not space.is_coarse:
        return noise
    with full_float32(noise.device):
        return space.coarse(noise.float())
