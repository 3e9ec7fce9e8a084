"""What accelerate's loaders say of the batch in hand, kept with the batch while others are read ahead.

A loader prepared by accelerate is registered while it is iterated over, and says before it gives its last batch that it
is at its end: then a step is taken, however few batches are accumulated. Read ahead, it would say so of batches that
come long before. So what it said is noted when a batch is read, and said again when the batch is handed out. All by the
loader's own attributes and its ``begin()`` and ``end()``, and only where accelerate is imported already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

# Whether the batch is the last, how many of its data count, and the place to resume at; where a loader has them.
FLAGS = ("end_of_dataloader", "remainder", "dl_state_dict")


@dataclass(frozen=True)
class Given:
    """What a loader gave.

    Attributes:
        batch: The batch.
        loader: Accelerate's loader that it came from, by way of others or not, or None.
        flags: What that said of it.
        iteration: The number of that loader's pass.
        depth: The place of that loader among those that are iterated over, the innermost last.
    """

    batch: Any
    loader: Any
    flags: dict[str, Any]
    iteration: Any
    depth: int


class Reading(Iterator[Given]):
    """Reads a loader, and says of each batch that is handed out what was said when it was read.

    Arguments:
        batches: The loader, or anything that iterates over one.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = iter(batches)
        self._loader: Any = None
        # Loaders that had ended when their batches were handed out, and the number of the pass that they are to make.
        self._ended: list[tuple[Any, Any]] = []

    def __next__(self) -> Given:
        before = _registered()
        batch = next(self._batches)
        after = _registered()
        last = after[-1] if after else None
        # Others than those that began here may be a loop's around this one, and speak of that.
        if last is not None and _count(last, after) > _count(last, before):
            self._loader = last
        flags = {name: getattr(self._loader, name) for name in FLAGS if hasattr(self._loader, name)}
        return Given(batch, self._loader, flags, getattr(self._loader, "iteration", None), _place(self._loader, after))

    def hand_out(self, given: Given) -> None:
        """Makes the loader of a batch say what it said when the batch was read."""
        loader = given.loader
        self._end([ended for ended in self._ended if ended[0] is not loader])
        if loader is None:
            return
        if not _count(loader, _registered()):
            self._ended.append((loader, getattr(loader, "iteration", None)))
            loader.begin()
            # A loop within this one that was left early still has its loader above.
            _move_last(max(given.depth, _place(self._loader, _registered()[:-1]) + 1))
        for name, value in given.flags.items():
            setattr(loader, name, value)
        if given.iteration is not None and self._ended:
            loader.iteration = given.iteration

    def end(self) -> None:
        """Ends the loaders whose batches have all been handed out."""
        self._end(list(self._ended))

    def _end(self, ended: list[tuple[Any, Any]]) -> None:
        for loader, iteration in ended:
            if iteration is not None:
                loader.iteration = iteration
            loader.end()
        self._ended = [one for one in self._ended if one not in ended]


def _registered() -> list[Any]:
    """The loaders that accelerate takes to be iterated over, the innermost last."""
    state = sys.modules.get("accelerate.state")
    return state.GradientState().dataloader_references if state is not None else []


def _move_last(place: int) -> None:
    """Moves the innermost of the loaders that are iterated over outwards, to a place."""
    state, loaders = sys.modules["accelerate.state"].GradientState(), _registered()
    if place < len(loaders) - 1:
        state.dataloader_references = [*loaders[:place], loaders[-1], *loaders[place:-1]]


def _place(loader: Any, loaders: list[Any]) -> int:
    """The last place of a loader, or -1."""
    return max((place for place, one in enumerate(loaders) if one is loader), default=-1)


def _count(loader: Any, loaders: list[Any]) -> int:
    return sum(one is loader for one in loaders)
