"""The order in which the processes of a run see a stream, and a source that draws from it.

The shards of each epoch are a new permutation, of which rank r of R takes each R-th, so that no image comes to two
ranks in one epoch. A rank reads its shards in *windows* of a fixed number of images, the last of an epoch being
shorter, and sees each window in a permutation of its own. All of it follows from the seed, the rank and the number of
ranks: a position is a window, by where in its shard it begins, and how many of its images have been taken. Epochs
follow one another without end, each rank going on to its next one as soon as its shards are read.

With fewer shards than ranks every rank reads all of them, and keeps each R-th image.
"""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from immiscible.config.groups import ImageRun
from immiscible.data import Images
from immiscible.data.decoding import Damages
from immiscible.data.examples import Example
from immiscible.data.shards import Head, Stream
from immiscible.data.threads import ahead, at_once
from immiscible.errors import InputError
from immiscible.io.console import say
from immiscible.seeds import generator
from immiscible.training.sources import Drawn, Points, PointSource, Position

# Images that are shuffled among themselves: as many as memory easily holds encoded, twice, since the next window is
# read while one is used.
WINDOW = 2048


@dataclass(frozen=True)
class Place:
    """Where a window begins.

    Attributes:
        epoch: The epoch.
        window: The number of the window in the epoch, on this rank.
        turn: Which of the rank's shards of the epoch it begins in.
        within: Where in that shard, see :class:`~immiscible.data.shards.Cursor`; None for its beginning.
    """

    epoch: int = 0
    window: int = 0
    turn: int = 0
    within: dict[str, Any] | None = None


@dataclass(frozen=True)
class Mark:
    """A position in the sequence of a rank.

    Attributes:
        place: The window.
        taken: How many of its images, in their order, have been taken.
        tried: How many images of the epoch have been taken.
        damaged: How many of these could not be read.
    """

    place: Place = Place()
    taken: int = 0
    tried: int = 0
    damaged: int = 0

    def as_json(self) -> dict[str, Any]:
        """The position as JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def of_json(values: dict[str, Any]) -> Mark:
        """The position that such values stand for."""
        return Mark(Place(**values["place"]), values["taken"], values["tried"], values["damaged"])


@dataclass(frozen=True)
class Shuffled:
    """Images that are shuffled among themselves, and where they begin."""

    place: Place
    examples: list[Example]


@dataclass(frozen=True)
class Walk:
    """The sequence in which a rank sees a stream.

    Arguments:
        stream: The stream.
        seed: The seed of the run.
        rank: The number of this process.
        ranks: The number of processes.
        window: How many images are shuffled among themselves.
    """

    stream: Stream
    seed: int
    rank: int = 0
    ranks: int = 1
    window: int = WINDOW

    @property
    def shared(self) -> bool:
        """Whether each shard is read by all ranks, since there are too few for each to have its own."""
        return len(self.stream.shards) < self.ranks

    def shards(self, epoch: int) -> list[int]:
        """The shards that this rank reads in an epoch, in order."""
        draws = generator("cpu", self.seed, "shards", epoch)
        order = torch.randperm(len(self.stream.shards), generator=draws).tolist()
        return order if self.shared else order[self.rank :: self.ranks]

    def windows(self, start: Place) -> Generator[Shuffled]:
        """The windows from one on, without end.

        Raises:
            InputError: If an epoch has no images for this rank.
        """
        place = start
        while True:
            windows = self._epoch(place)
            first = next(windows, None)
            if first is None and place == Place(place.epoch):
                raise InputError(
                    f"`{self.stream.spec}` must hold images for each of {self.ranks} processes, got none for process "
                    f"{self.rank} in an epoch: start fewer."
                )
            if first is not None:
                yield first
                yield from windows
            place = Place(place.epoch + 1)

    def _epoch(self, start: Place) -> Generator[Shuffled]:
        """The windows of an epoch from one on."""
        place, held = start, []
        for turn, shard in list(enumerate(self.shards(start.epoch)))[start.turn :]:
            reading = self.stream.shard(shard, start.within if turn == start.turn else None)
            for example in reading:
                if self.shared and (reading.number - 1) % self.ranks != self.rank:
                    continue
                held.append(example)
                if len(held) == self.window:
                    yield Shuffled(place, held)
                    place, held = Place(place.epoch, place.window + 1, turn, reading.state()), []
        if held:
            yield Shuffled(place, held)

    def examples(self, start: Mark) -> Generator[tuple[Example, Place, int]]:
        """The images from a position on, each with its window and how many of that have been taken with it."""
        taken = start.taken
        with contextlib.closing(ahead(self.windows(start.place))) as windows:
            for window in windows:
                draws = generator("cpu", self.seed, "window", window.place.epoch, window.place.window, self.rank)
                order = torch.randperm(len(window.examples), generator=draws).tolist()
                for index in order[taken:]:
                    taken += 1
                    yield window.examples[index], window.place, taken
                taken = 0

    def batches(self, count: int, shape: tuple[int, int, int], start: Mark) -> Generator[tuple[Images, Mark]]:
        """Decoded images, that many at a time, each batch with the position after it.

        Arguments:
            count: How many.
            shape: The shape of an image.
            start: The position of the first.

        Raises:
            InputError: If images cannot be read, and are not to be left out, or none of an epoch can.
        """
        tally = Tally(self.stream, start)
        pixels: list[Tensor] = []
        kept: list[Example] = []
        with (
            contextlib.closing(self.examples(start)) as examples,
            contextlib.closing(at_once(lambda read: self.stream.decode(read[0], shape), examples)) as outcomes,
        ):
            for (example, place, taken), outcome in outcomes:
                decoded = tally.take(outcome.result, example.name, place, taken)
                if decoded is None:
                    continue
                pixels.append(decoded)
                kept.append(example)
                if len(kept) == count:
                    yield self.stream.gather(pixels, kept), tally.mark
                    pixels, kept = [], []


class Tally:
    """Counts the images of a stream, and those that cannot be read, epoch by epoch.

    Arguments:
        stream: The stream.
        start: The position of the first image.

    Attributes:
        mark: The position after the last image.
    """

    def __init__(self, stream: Stream, start: Mark) -> None:
        self.stream, self.mark = stream, start
        self.damages = Damages(stream.skip_corrupt, start.damaged)

    def take(self, decode: Callable[[], Tensor], name: str, place: Place, taken: int) -> Tensor | None:
        """Takes the next image of a window; None if it is to be left out."""
        if place.epoch != self.mark.place.epoch:
            self.damages.settle(self.stream.spec, self.mark.tried)
            self.damages, self.mark = Damages(self.stream.skip_corrupt), Mark(place)
        pixels, tried = None, self.mark.tried + 1
        with self.damages.noted(name):
            pixels = decode()
        if not self.stream.skip_corrupt:
            self.damages.settle(self.stream.spec, tried)
        self.mark = Mark(place, taken, tried, self.damages.count)
        return pixels


class StreamSource:
    """Draws from a stream, in the order of the micro-batches, of which the next is made ready meanwhile.

    Arguments:
        head: The stream, by its head.
        walk: The sequence of this process.
        accumulation: Micro-batches per step.
        wrap: Makes some of its images a source.
    """

    def __init__(self, head: Head, walk: Walk, accumulation: int, wrap: Callable[[Images], PointSource]) -> None:
        self.head, self.walk, self.accumulation, self.wrap = head, walk, accumulation, wrap
        self._close: Callable[[], Any] = lambda: None
        self.seek(0, Mark().as_json())

    def __len__(self) -> int:
        return len(self.head)

    def seek(self, flat: int, state: dict[str, Any]) -> None:
        """Makes a micro-batch the next one, see :class:`~immiscible.training.sources.Sequential`."""
        self.next, self._states = flat, {flat: state}
        self._close()
        self._batches: Generator[tuple[Images, Mark]] | None = None

    def state_at(self, flat: int) -> dict[str, Any]:
        """The state to seek a micro-batch with, see :class:`~immiscible.training.sources.Sequential`."""
        # Another thread may be drawing; a copy of the keys is taken at once.
        for old in [key for key in list(self._states) if key < flat]:
            del self._states[old]
        return self._states[flat]

    def draw(self, indices: Tensor, position: Position) -> Drawn:
        """The next images, as many as there are indices, see :class:`~immiscible.training.sources.Source`."""
        step, micro, _ = position
        flat = step * self.accumulation + micro
        if flat != self.next:
            raise RuntimeError(f"a stream must be drawn from in order, here micro-batch {self.next}, got {flat}")
        if self._batches is None:
            start = Mark.of_json(self._states[flat])
            self._batches = ahead(self.walk.batches(len(indices), self.head.shape, start))
            # Also when the process ends, before what its threads use is gone.
            self._close = weakref.finalize(self, self._batches.close)
        images, after = next(self._batches)
        if len(images) != len(indices):
            raise RuntimeError(f"micro-batches of a stream must have one size, {len(images)}, got {len(indices)}")
        self.next = flat + 1
        self._states[self.next] = after.as_json()
        return self.wrap(images).draw(torch.arange(len(images)), position)

    def points(self) -> Points:
        """Those of the head."""
        return self.wrap(self.head).points()


def sourced(data: Images, config: ImageRun, wrap: Callable[[Images], PointSource]) -> PointSource:
    """Images as a source; for the head of a stream, the stream.

    Arguments:
        data: The images.
        config: The configuration of the run.
        wrap: Makes some images a source.
    """
    if not isinstance(data, Head):
        return wrap(data)
    processes = PartialState()
    walk = Walk(data.stream, config.seed, processes.process_index, processes.num_processes)
    if walk.shared and processes.is_main_process:
        say(
            f"warning: {data.stream.spec} has {len(data.stream.shards)} shards for {walk.ranks} processes, so each "
            f"reads all of them and keeps one image of {walk.ranks}: {walk.ranks} shards or more are read faster."
        )
    return StreamSource(data, walk, config.accumulation, wrap)
