"""The micro-batches of a run with their noise, where an assignment pairs several of them at once.

A *window* is a number of micro-batches that follow one another, of all ranks; what is paired together is the window's
data and as much noise. All of it is known ahead: data by the order of the run, noise by seeds. So any rank draws the
noise of any other instead of receiving it, a window can be paired while the one before it is trained on, and a run
that resumes within a window pairs the whole of it again and goes on in the middle.

The set of noises is that of independent training, window by window: couplings compared under one seed see the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from immiscible.couplings.assignment import SEEDS
from immiscible.couplings.distributed.ranks import Ranks
from immiscible.couplings.distributed.solve import Pending, Share, agree, begin
from immiscible.couplings.parts import Parts
from immiscible.couplings.protocol import finite_norms, full_float32
from immiscible.errors import InputError
from immiscible.training.pairing import Pairing
from immiscible.training.sources import Drawn

Place = tuple[int, int]


@dataclass
class Window:
    """Some micro-batches of this rank, drawn and being paired.

    Attributes:
        places: The step and the micro-batch of each.
        drawn: The data of each.
        coupled: Which of them are coupled.
        pending: The assignment of those, unless none is.
    """

    places: list[Place]
    drawn: list[Drawn]
    coupled: list[int]
    pending: Pending | None


class Pools:
    """Gives the micro-batches of a run one after the other, each with the noise it was paired with.

    Arguments:
        pairing: The noise of the run.
        parts: The assignment of its coupling.
        draw: Draws the data of this rank for a step and a micro-batch.
        ranks: Who shares the pools.
        size: The micro-batches of a window.
        accumulation: The micro-batches of a step.
        steps: The steps of the run; nothing is paired ahead for later ones.
        background: Whether to solve in a thread.
    """

    def __init__(
        self,
        pairing: Pairing,
        parts: Parts,
        draw: Callable[[int, int], Drawn],
        ranks: Ranks,
        size: int,
        accumulation: int,
        steps: int,
        background: bool,
    ) -> None:
        self.pairing, self.parts, self.draw, self.ranks = pairing, parts, draw, ranks
        self.size, self.accumulation, self.last = size, accumulation, steps * accumulation
        self._executor = ThreadPoolExecutor(1, "immiscible-pairing") if background else None
        self._number = -1
        self._ready: list[tuple[Drawn, Tensor]] = []
        self._ahead: tuple[int, Window] | None = None

    def first_needed(self, step: int) -> int:
        """The first micro-batch, counted from the beginning of the run, that resuming at a step draws again."""
        return step * self.accumulation // self.size * self.size

    def pairs(self, step: int, micro: int) -> tuple[Drawn, Tensor]:
        """The data of this rank for a micro-batch of a step, and its noise."""
        number, place = divmod(step * self.accumulation + micro, self.size)
        if number != self._number:
            self._ready, self._number = self._paired(number), number
        drawn, noise = self._ready[place]
        device = self.device
        return drawn.to(device), noise.to(device)

    def close(self) -> None:
        """Waits for what is being solved, which nobody will ask for any more."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def _paired(self, number: int) -> list[tuple[Drawn, Tensor]]:
        """The micro-batches of a window with their noise; begins with the next window."""
        ahead, self._ahead = self._ahead, None
        window = ahead[1] if ahead and ahead[0] == number else self._begun(number)
        order = self._order(window)
        if self._executor is not None and (number + 1) * self.size < self.last:
            self._ahead = number + 1, self._begun(number + 1)
        return self._handed_out(window, order)

    def _begun(self, number: int) -> Window:
        """Draws the data of a window and begins to pair it."""
        flats = range(number * self.size, (number + 1) * self.size)
        places = [divmod(flat, self.accumulation) for flat in flats]
        drawn = [self.draw(*place) for place in places]
        self.device = drawn[0].x.device
        coupled = [index for index, (step, _) in enumerate(places) if self.pairing.coupled(step)]
        window = Window(places, drawn, coupled, None)
        if coupled:
            draws = self.pairing.draws(self.device, *places[coupled[0]], 0)
            # The coin is tossed as a coupling on its own would toss it, and alike on all ranks.
            if self.parts.p == 1 or torch.rand((), generator=draws, device=self.device).item() < self.parts.p:
                with self.pairing.watch:
                    window.pending = self._begin(window, draws)
        if self.size > 1:
            window.drawn = [one.to(torch.device("cpu")) for one in drawn]
        return window

    def _begin(self, window: Window, draws: torch.Generator) -> Pending:
        parts, ranks = self.parts, self.ranks
        members = [window.drawn[index] for index in window.coupled]
        with full_float32(self.device):
            x = parts.space.ranked(torch.cat([one.x for one in members]))
            groups = [one.groups for one in members if one.groups is not None]
            labels = torch.cat(groups) if groups else None
            counts = agree(x, labels, ranks, _not_finite(x))
            share = Share(x, labels, lambda first, last: self._noise(window, first, last))
            seed = int(torch.randint(SEEDS, (1,), generator=draws, device=self.device))
            return begin(share, ranks, counts, parts.assignment.method, seed, self._executor)

    def _blocks(self, window: Window) -> Iterator[tuple[int, int, Place]]:
        """Where the noise of each coupled micro-batch of each rank begins in the pool, its rank, and its place."""
        length = len(window.drawn[0].x)
        for rank in range(self.ranks.size):
            for index, member in enumerate(window.coupled):
                yield (rank * len(window.coupled) + index) * length, rank, window.places[member]

    def _noise(self, window: Window, first: int, last: int) -> Iterator[Tensor]:
        """The noise of the pool from one place to another, as it is ranked."""
        shape = window.drawn[0].x.shape
        for begins, rank, place in self._blocks(window):
            if first < begins + shape[0] and begins < last:
                drawn = self.pairing.drawn(shape, self.device, *place, rank)
                piece = self.parts.space.coarse(drawn)
                yield piece[max(first - begins, 0) : last - begins]

    def _order(self, window: Window) -> Tensor | None:
        """Waits for the assignment of a window: the place in the pool of the noise of each of this rank's data."""
        if window.pending is None:
            return None
        with self.pairing.watch:
            return window.pending.own()

    def _handed_out(self, window: Window, order: Tensor | None) -> list[tuple[Drawn, Tensor]]:
        """The micro-batches of a window, each with its noise."""
        shape = window.drawn[0].x.shape
        own = [self.pairing.drawn(shape, self.device, *place, self.ranks.rank) for place in window.places]
        if order is not None:
            with full_float32(self.device):
                for index, noise in zip(window.coupled, self._selected(window, order), strict=True):
                    own[index] = self.parts.space.replaced(own[index], noise.to(self.device))
        store = torch.device("cpu") if self.size > 1 else self.device
        return [(drawn, noise.to(store)) for drawn, noise in zip(window.drawn, own, strict=True)]

    def _selected(self, window: Window, order: Tensor) -> tuple[Tensor, ...]:
        """The noise of the pool in some order, a micro-batch each. The pool is drawn once more, piece by piece."""
        chosen: Tensor | None = None
        length, begins = len(window.drawn[0].x), 0
        for piece in self._noise(window, 0, length * len(window.coupled) * self.ranks.size):
            if chosen is None:
                chosen = piece.new_empty(len(order), *piece.shape[1:])
            here = ((order >= begins) & (order < begins + length)).nonzero()[:, 0]
            chosen[here.to(self.device)] = piece[(order[here] - begins).to(self.device)]
            begins += length
        assert chosen is not None
        return chosen.split(length)


def _not_finite(x: Tensor) -> InputError | None:
    try:
        finite_norms(x, x)
    except InputError as error:
        return error
    return None
