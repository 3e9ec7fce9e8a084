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
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from immiscible.couplings.distributed.ranks import Ranks
from immiscible.couplings.parts import parts_of
from immiscible.couplings.pooling import Paired, PoolPairer, View
from immiscible.couplings.spaces import Conditional
from immiscible.training.pairing import Pairing
from immiscible.training.sources import Drawn

Place = tuple[int, int]


@dataclass(frozen=True)
class Windows:
    """How the micro-batches of a run fall into windows.

    Attributes:
        size: The micro-batches of a window.
        accumulation: The micro-batches of a step.
        steps: The steps of the run; nothing is paired ahead for later ones.
    """

    size: int
    accumulation: int
    steps: int

    def places(self, number: int) -> list[Place]:
        """The step and the micro-batch of each member of a window."""
        return [divmod(flat, self.accumulation) for flat in range(number * self.size, (number + 1) * self.size)]

    def find(self, step: int, micro: int) -> tuple[int, int]:
        """The window of a micro-batch, and its number in that."""
        return divmod(step * self.accumulation + micro, self.size)

    def trained(self, number: int) -> bool:
        """Whether the run comes to a window."""
        return number * self.size < self.steps * self.accumulation


@dataclass(frozen=True)
class BlockNoise:
    """The noise of the coupled micro-batches of a window, on all ranks: a block for each, from a seed of its own.

    Attributes:
        pairing: The noise of the run.
        like: The data of one.
        places: The step and the micro-batch of each.
        ranks: How many ranks there are.
    """

    pairing: Pairing
    like: Tensor
    places: list[Place]
    ranks: int

    def block(self, place: Place, rank: int) -> Tensor:
        """The noise of one micro-batch."""
        return self.pairing.drawn(self.like.shape, self.like.device, *place, rank)

    def pieces(self, first: int, last: int) -> Iterator[Tensor]:
        """The noise from one place in the pool to another."""
        length = len(self.like)
        for number in range(first // length, -(-last // length)):
            rank, index = divmod(number, len(self.places))
            begins = number * length
            yield self.block(self.places[index], rank)[max(first - begins, 0) : last - begins]

    def at(self, places: Tensor, view: View) -> Tensor:
        """What a view shows of the noise of some places in the pool, all of which is drawn again, piece by piece."""
        length = len(self.like)
        chosen: Tensor | None = None
        for number, piece in enumerate(self.pieces(0, length * len(self.places) * self.ranks)):
            shown = view(piece)
            chosen = shown.new_empty(len(places), *shown.shape[1:]) if chosen is None else chosen
            here = (places // length == number).nonzero()[:, 0]
            chosen[here.to(shown.device)] = shown[(places[here] % length).to(shown.device)]
        assert chosen is not None
        return chosen


@dataclass
class Window:
    """Some micro-batches of this rank, drawn and being paired.

    Attributes:
        places: The step and the micro-batch of each.
        drawn: The data of each.
        noise: The noise of those that are coupled, and what draws the others'.
        paired: The pool of those that are coupled, unless none is.
    """

    places: list[Place]
    drawn: list[Drawn]
    noise: BlockNoise
    paired: Paired | None = None


class Pools:
    """Gives the micro-batches of a run one after the other, each with the noise it was paired with.

    Arguments:
        pairing: The noise of the run, and its coupling, which must be one that pools can pair by.
        draw: Draws the data of this rank for a step and a micro-batch.
        ranks: Who shares the pools.
        windows: How the micro-batches fall into windows.
        background: Whether to solve in a thread.
    """

    def __init__(
        self, pairing: Pairing, draw: Callable[[int, int], Drawn], ranks: Ranks, windows: Windows, background: bool
    ) -> None:
        parts = parts_of(pairing.coupling)
        assert parts is not None
        self.pairing, self.draw, self.windows = pairing, draw, windows
        self._executor = ThreadPoolExecutor(1, "immiscible-pairing") if background else None
        self._pairer = PoolPairer(parts, ranks, self._executor)
        self._number = -1
        self._ready: list[tuple[Drawn, Tensor]] = []
        self._ahead: tuple[int, Window] | None = None

    def first_needed(self, step: int) -> int:
        """The first micro-batch, counted from the beginning of the run, that resuming at a step draws again."""
        return self.windows.find(step, 0)[0] * self.windows.size

    def pairs(self, step: int, micro: int) -> tuple[Drawn, Tensor]:
        """The data of this rank for a micro-batch of a step, and its noise."""
        number, index = self.windows.find(step, micro)
        if number != self._number:
            self._ready, self._number = self._paired(number), number
        drawn, noise = self._ready[index]
        return drawn.to(self.device), noise.to(self.device)

    def close(self) -> None:
        """Waits for what is being solved, which nobody will ask for any more."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def _paired(self, number: int) -> list[tuple[Drawn, Tensor]]:
        """The micro-batches of a window with their noise; begins with the next window."""
        ahead, self._ahead = self._ahead, None
        window = ahead[1] if ahead and ahead[0] == number else self._begun(number)
        order = self._order(window)
        if self._executor is not None and self.windows.trained(number + 1):
            self._ahead = number + 1, self._begun(number + 1)
        store = torch.device("cpu") if self.windows.size > 1 else self.device
        noises = self._noises(window, order)
        return [(drawn, noise.to(store)) for drawn, noise in zip(window.drawn, noises, strict=True)]

    def _begun(self, number: int) -> Window:
        """Draws the data of a window and begins to pair it."""
        places = self.windows.places(number)
        drawn = [self.draw(*place) for place in places]
        self.device = drawn[0].x.device
        coupled = [index for index, (step, _) in enumerate(places) if self.pairing.coupled(step)]
        like = drawn[0].x.new_empty(()).expand(drawn[0].x.shape)
        noise = BlockNoise(self.pairing, like, [places[index] for index in coupled], self._pairer.ranks.size)
        window = Window(places, drawn, noise)
        if coupled:
            with self.pairing.watch:
                window.paired = self._begin([drawn[index] for index in coupled], noise)
        if self.windows.size > 1:
            window.drawn = [one.to(torch.device("cpu")) for one in drawn]
        return window

    def _begin(self, members: list[Drawn], noise: BlockNoise) -> Paired:
        """Begins to pair the coupled micro-batches of a window."""
        groups = [one.groups for one in members if one.groups is not None]
        x, labels = torch.cat([one.x for one in members]), torch.cat(groups) if groups else None
        coin, seed = self.pairing.coin_and_seed(self.device, *noise.places[0], self._pairer.parts.p)
        return self._pairer_of(members).begin(x, labels, noise, coin, seed)

    def _pairer_of(self, members: list[Drawn]) -> PoolPairer:
        """What pairs some micro-batches. Where their condition counts, this rank's data are ranked by it here."""
        parts = self._pairer.parts
        if not isinstance(parts.space, Conditional):
            return self._pairer
        conditions = [one.ranked_by for one in members if one.ranked_by is not None]
        space = parts.space.given(torch.cat(conditions) if conditions else None)
        return replace(self._pairer, parts=replace(parts, space=space))

    def _order(self, window: Window) -> Tensor | None:
        """Waits for the assignment of a window: the place in the pool of the noise of each of this rank's data."""
        if window.paired is None or window.paired.pending is None:
            return None
        with self.pairing.watch:
            return window.paired.order()

    def _noises(self, window: Window, order: Tensor | None) -> Iterator[Tensor]:
        """The noise of each micro-batch of a window."""
        chosen: Iterator[Tensor] = iter(())
        if window.paired is not None and order is not None:
            chosen = iter(window.paired.chosen(order).split(len(window.noise.like)))
        for place in window.places:

            def own(place: Place = place) -> Tensor:
                return window.noise.block(place, self._pairer.ranks.rank)

            if window.paired is None or order is None or place not in window.noise.places:
                yield own()
            else:
                yield window.paired.merged(next(chosen), own)
