r"""Reservoir: noises wait until a datum comes that they suit. Exact in law, even at a batch of one.

:math:`R` noises wait, the first of them drawn before any datum came. A batch of :math:`B` data adds its :math:`B`
noises, takes the :math:`B` of all these that suit it best, and leaves the others waiting. That is a rectangular
assignment, with an injective :math:`\pi` in place of a permutation:

.. math:: \pi^\star = \arg\max_\pi \sum_{i=1}^B \langle x_i - c, n_{\pi(i)} \rangle
    + \lambda\, s\, a_{\pi(i)} / R

Here :math:`c` is the running mean of the data, :math:`s` that of the distances :math:`|x - c|`, and the age :math:`a`
of a noise the number of data that came since it did. For a single datum it is a search for the largest score.

Nothing is drawn again and nothing is dropped: the noises used and those that wait *are* the noises drawn. So over
:math:`T` data the law of those used is off by :math:`R/T` in total variation at most, whatever the data, their order
and the ranking; nothing is fitted, and no other process is asked. The centre keeps a direction that all data share
from deciding alone. The age brings a noise that suits nobody to its turn: at :math:`\lambda = 1/2` the longest wait is
some :math:`3.3\,R` data. Neighbours in time choose from the same noises, so it is over many data, and not within each
batch, that the law is exact.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from immiscible import seeds
from immiscible.couplings.assignment import SEEDS
from immiscible.couplings.protocol import check_inputs, eager, finite_norms, full_float32, note_unless_normal, rows
from immiscible.couplings.solvers.dense import jonker_volgenant
from immiscible.errors import InputError

Places = NDArray[np.int64]
Redraw = Callable[[list[int]], Tensor]

# More noises than these no memory holds.
MOST = 2**24
# The class of data without labels.
ALL = "all"
# How much it counts that a noise waited.
AGE = 0.5
# What a state has of each class, and the number of noises that came.
PARTS = ("noises", "arrived", "numbers", "centre", "spread", "count", "seed")
CAME = "came"


@dataclass
class Waiting:
    r"""The noises that wait for the data of one class.

    Attributes:
        noises: The noises, with shape (R, \*), and after them room for those that come with data.
        arrived: How many data had come before each, with shape (R,).
        numbers: Which of all noises handed in each is; the first that waited, drawn before any datum, are -1, -2, ...
        centre: The mean of the data so far, ``float32`` with shape (D,).
        spread: Their mean distance to it.
        count: How many data there were.
        seed: What the first that waited are drawn from.
    """

    noises: Tensor
    arrived: Places
    numbers: Places
    centre: Tensor
    spread: float
    count: int
    seed: int

    @staticmethod
    def begin(size: int, like: Tensor, seed: int) -> Waiting:
        """The first noises that wait, each in the shape and dtype of one of ``like``."""
        centre = torch.zeros(like[0].numel(), device=like.device, dtype=torch.float32)
        arrived, numbers = np.zeros(size, np.int64), -1 - np.arange(size)
        return Waiting(_first(size, like, seed), arrived, numbers, centre, 0.0, 0, seed)

    def exchange(self, x: Tensor, noise: Tensor, numbers: Places, age: float) -> Tensor:
        """The noise of each of the data. What is left of the noise that came with them waits."""
        size, batch = len(self.numbers), len(numbers)
        pool = self._pool(noise, size, batch)
        chosen = self._chosen(rows(x).float(), rows(pool).float(), batch, age)
        arrived, self.count = self.count, self.count + batch
        if batch == 1:
            # As below, in a fraction of the time: for one row indices take long.
            slot = chosen.item()
            taken = pool[slot : slot + 1].clone()
            if slot < size:
                pool[slot], self.arrived[slot], self.numbers[slot] = pool[size], arrived, numbers[0]
            return taken
        taken = pool[_index(chosen, pool)]
        left = np.ones(size + batch, bool)
        left[chosen] = False
        slots, stay = np.flatnonzero(~left[:size]), np.flatnonzero(left[size:])
        pool[_index(slots, pool)] = pool[_index(size + stay, pool)]
        self.arrived[slots], self.numbers[slots] = arrived, numbers[stay]
        return taken

    def _pool(self, noise: Tensor, size: int, batch: int) -> Tensor:
        """What there is to choose from: the noises that wait, then those that came, in memory that is kept."""
        if len(self.noises) < size + batch:
            self.noises = torch.cat([self.noises[:size], torch.empty_like(noise)])
        pool = self.noises[: size + batch]
        pool[size:] = noise
        return pool

    def _chosen(self, data: Tensor, pool: Tensor, batch: int, age: float) -> Places:
        """Which noise of the pool each datum takes."""
        share = batch / (self.count + batch)
        self.centre.lerp_(data.mean(0) if batch > 1 else data[0], share)
        away = data - self.centre
        self.spread += share * (torch.linalg.vector_norm(away, dim=1).mean().item() - self.spread)
        # Products on the device of the data; what follows is small.
        scores = (away @ pool.T).cpu().numpy()
        size = len(self.numbers)
        waited = (self.count - self.arrived).astype(np.float32)
        waited *= age * self.spread / size
        scores[:, :size] += waited
        return scores.argmax(1) if batch == 1 else jonker_volgenant()(-scores)


@dataclass
class Held:
    """What a reservoir holds, which threads take in turn.

    Attributes:
        classes: What waits, by the class that it waits for.
        came: How many noises were handed in, which is the number of the next.
    """

    classes: dict[str, Waiting] = field(default_factory=dict)
    came: int = 0
    lock: Any = field(default_factory=threading.Lock, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy has a lock of its own.
        return Held, (self.classes, self.came)


@dataclass(frozen=True)
class Reservoir:
    r"""Keeps noises waiting, and gives each datum the one that suits it best.

    Source: this package.

    Its noises wait from call to call, so a loop calls the same object each time, and keeps :meth:`state_dict` to go on
    later. Data with labels have a reservoir for each class, made as the class appears, and the noise of each class is
    exact. Within :class:`Mixed` it sleeps while batches are left alone. Each process has its own; threads may share
    one.

    Noise must be standard normal, as the first noises that wait are.

    Arguments:
        size: How many noises wait for each class, from 1.
        age: What a wait of ``size`` data counts for, at least 0, in units of what tells one noise from another. At 0 a
            noise that suits no datum waits for ever.

    Example:
        >>> reservoir = Reservoir(64)
        >>> for x in torch.randn(6, 1, 3, 8, 8):
        ...     noise = reservoir(x, torch.randn_like(x))
    """

    moves: ClassVar[str] = (
        "whole noises between the data of all batches, within each class if labels are given: what suits none yet "
        "waits, and new noises take the place of those used."
    )
    law: ClassVar[str] = (
        "exact: the noises used and the R that wait are the ones drawn, so over T data it is off by R/T in total "
        "variation at most; data that follow one another choose from the same noises."
    )
    cost: ClassVar[str] = (
        "one float32 matrix product, O(B (R + B) D), then a rectangular assignment, O(B^2 (R + B)) at worst. Memory "
        "R D values for each class."
    )

    size: int = 256
    age: float = AGE
    _held: Held = field(default_factory=Held, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or isinstance(self.size, bool) or not 1 <= self.size <= MOST:
            raise InputError(f"`size` must be a whole number from 1 to {MOST:,}, got {self.size!r}.")
        number = isinstance(self.age, int | float) and not isinstance(self.age, bool)
        if not number or not 0 <= self.age < math.inf:
            raise InputError(f"`age` must be a finite number of at least 0, got {self.age!r}.")

    @eager
    def __call__(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Couples, see :class:`~immiscible.couplings.protocol.Coupling`.

        The generator draws a seed for each new class. The noise must have one shape and dtype in all calls.
        """
        check_inputs(x, noise, labels, generator)
        with full_float32(x.device), self._held.lock:
            self._check_like(noise)
            norms = finite_norms(x, noise)[1]
            batch = len(norms)
            note_unless_normal(norms, noise.numel() // batch, str(self))
            numbers = np.arange(self._held.came, self._held.came + batch)
            self._held.came += batch
            if labels is None:
                return self._exchange(ALL, x, noise.detach(), numbers, generator)
            taken = torch.empty_like(noise)
            for label, places in _members(labels):
                members = _index(places, noise)
                own = x[members], noise.detach()[members], numbers[places]
                taken[members] = self._exchange(label, *own, generator)
            return taken

    def _exchange(
        self, label: str, x: Tensor, noise: Tensor, numbers: Places, generator: torch.Generator | None
    ) -> Tensor:
        """The noise of the data of one class."""
        classes = self._held.classes
        if label not in classes:
            device = generator.device if generator is not None else "cpu"
            seed = int(torch.randint(SEEDS, (1,), generator=generator, device=device))
            classes[label] = Waiting.begin(self.size, noise, seed)
        return classes[label].exchange(x, noise, numbers, self.age)

    def _check_like(self, noise: Tensor) -> None:
        """Checks that noise is like that which waits."""
        for waiting in self._held.classes.values():
            waits = waiting.noises
            if (waits.shape[1:], waits.dtype, waits.device) != (noise.shape[1:], noise.dtype, noise.device):
                raise InputError(
                    f"`noise` must be like what waits in the reservoir, {_form(waits)}, got {_form(noise)}: take "
                    "another Reservoir for it."
                )
            return

    @property
    def holds(self) -> bool:
        """Whether noises wait."""
        return bool(self._held.classes)

    def number(self, first: int) -> None:
        """Numbers the noises that are handed in next from ``first`` on, for who draws those that wait again."""
        self._held.came = first

    def state_dict(self, *, noises: bool = True) -> dict[str, Tensor]:
        """What it holds, as tensors by name.

        Arguments:
            noises: Whether the noises are in it; without them they are drawn again when it is loaded.
        """
        with self._held.lock:
            state = {CAME: _tensor(self._held.came)}
            for label, waiting in self._held.classes.items():
                for part in PARTS[0 if noises else 1 :]:
                    value = getattr(waiting, part) if part != "noises" else waiting.noises[: self.size]
                    state[f"{label}.{part}"] = value.clone() if isinstance(value, Tensor) else _tensor(value)
            return state

    def load_state_dict(self, state: Mapping[str, Tensor], redraw: Redraw | None = None) -> None:
        r"""Goes on where another reservoir stood, to the bit.

        Arguments:
            state: Its :meth:`state_dict`.
            redraw: Draws noises again by their numbers, with shape (m, \*), for a state without noises; for no numbers
                it draws none, of the same kind.

        Raises:
            InputError: If the state is not one of a reservoir of this size.
        """
        labels = sorted({name.partition(".")[0] for name in state if name != CAME})
        parts = PARTS if redraw is None else PARTS[1:]
        complete = state.keys() == {CAME, *(f"{label}.{part}" for label in labels for part in parts)}
        sizes = {len(state[f"{label}.arrived"]) for label in labels} if complete else set()
        if not complete or not sizes <= {self.size}:
            given = f"one of {min(sizes)} noises" if sizes else "another"
            raise InputError(f"the state must be one of a reservoir of {self.size} noises, got {given}.")
        kept = {label: {part: state[f"{label}.{part}"].clone() for part in parts} for label in labels}
        if redraw is not None:
            _draw_again(kept, redraw)
        classes = {label: _waiting(**parts) for label, parts in kept.items()}
        with self._held.lock:
            self._held.classes, self._held.came = classes, int(state[CAME])

    def __str__(self) -> str:
        return f"reservoir:{self.size}" + ("" if self.age == AGE else f":{self.age}")


def _first(size: int, like: Tensor, seed: int) -> Tensor:
    """The first noises that wait, each in the shape and dtype of one of ``like``."""
    draws = seeds.generator(like.device, seed, "reservoir")
    return torch.randn(size, *like.shape[1:], generator=draws, device=like.device, dtype=like.dtype)


def _draw_again(kept: dict[str, dict[str, Tensor]], redraw: Redraw) -> None:
    """Adds to what was kept of each class the noises that wait, those of all classes drawn at once."""
    came = {label: parts["numbers"] >= 0 for label, parts in kept.items()}
    drawn = redraw([number for label, parts in kept.items() for number in parts["numbers"][came[label]].tolist()])
    each = drawn.split([int(here.sum()) for here in came.values()])
    for (label, parts), handed_in in zip(kept.items(), each, strict=True):
        numbers, device = parts["numbers"], drawn.device
        noises = _first(len(numbers), drawn, int(parts["seed"]))[(-1 - numbers).clamp_min(0).to(device)]
        noises[came[label].to(device)] = handed_in
        parts["noises"] = noises


def _waiting(**parts: Tensor) -> Waiting:
    """What waits for a class, of the tensors of a state."""
    noises, centre = parts["noises"], parts["centre"].to(parts["noises"].device)
    arrived, numbers = parts["arrived"].cpu().numpy(), parts["numbers"].cpu().numpy()
    count, seed = int(parts["count"]), int(parts["seed"])
    return Waiting(noises, arrived, numbers, centre, parts["spread"].item(), count, seed)


def _members(labels: Tensor) -> Iterator[tuple[str, Places]]:
    """Each class among the data, and their places."""
    found = labels.cpu().numpy().astype(np.int64)
    for label in np.unique(found).tolist():
        yield str(label), np.flatnonzero(found == label)


def _index(places: NDArray[Any], like: Tensor) -> Tensor:
    return torch.from_numpy(places).to(like.device)


def _tensor(value: float | Places) -> Tensor:
    """Numbers as they are kept, all to the bit."""
    return torch.from_numpy(np.array(value))


def _form(noises: Tensor) -> str:
    return f"{noises.dtype} of shape {tuple(noises.shape[1:])} on {noises.device}"
