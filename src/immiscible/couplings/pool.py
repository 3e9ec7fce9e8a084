r"""Pools that are larger than a batch: several batches of a loader are paired as one, and handed out one by one.

An assignment has more to choose from in a larger pool, while a step, of little memory or of LoRA at batch 1, has few
data. So :class:`Pool` takes batches from a loader until it has enough data, pairs all of them, and gives them back one
after the other, each with its noise. What a pool is trained on and the noise of it are those of independent training:
the noises are permuted over several batches in place of one, so the noise law stays exact.

The noise of each datum is drawn from a seed of its own, and is drawn again when it is handed out. So a pool keeps one
whole number per datum instead of a noise; and where the loader gives indices, it keeps these instead of the data. The
noise of another rank is drawn from its seed too, and none of it travels, see
:mod:`immiscible.couplings.distributed.solve`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, ClassVar

from torch import Tensor

from immiscible.couplings.distributed.ranks import ranks_of, together
from immiscible.couplings.filling import Filling, Reader
from immiscible.couplings.loader_flags import Reading
from immiscible.couplings.parts import parts_of
from immiscible.couplings.pooling import PoolPairer
from immiscible.couplings.protocol import Coupling
from immiscible.errors import InputError

# What images and latents have.
CHANNELS = (1, 3, 4, 8, 16)


class Pool:
    """Pairs the batches of a loader in pools that are larger than a batch.

    Source: this package.

    Arguments:
        coupling: An assignment, also within :class:`~immiscible.Mixed` or :class:`~immiscible.InSpace`.
        size: A pool takes whole batches until it has this many data, on all ranks together. The last one of a pass over
            the loader may have fewer.
        seed: The seed of all noise; the first rank's counts.
        data: Takes the data out of a batch, ``float`` with shape (B, ...); without it a batch is a tensor, or a tuple
            that begins with one. The noise is drawn on their device and in their dtype. Batches may differ in shape,
            as buckets of aspect ratios do: the data of each shape are paired by themselves.
        labels: Takes the class of each datum out of a batch, with shape (B,), for noise to stay within classes.
        fetch: For loaders of indices: makes a batch of what the loader gives. It is called when the pool is paired and
            again when the batch is handed out, and should give the same both times.
        background: Whether to solve in a thread, the next pool while this one is handed out. The noise is the same.

    Raises:
        InputError: If the coupling is no assignment, or another argument is out of range.

    Example:
        >>> import torch
        >>> from immiscible import LinearAssignment
        >>> pool = Pool(LinearAssignment(), size=8)
        >>> loader = torch.randn(6, 2, 3, 4, 4)  # Six batches of two images; usually a DataLoader.
        >>> for x, noise in pool(loader):
        ...     assert noise.shape == x.shape
    """

    moves: ClassVar[str] = (
        'whole noises between the data of several batches, of all ranks with LinearAssignment(pool="global").'
    )
    law: ClassVar[str] = "exact, as the coupling's."
    cost: ClassVar[str] = (
        "that of the coupling for size data, once per pool, of which what the solver takes happens in a thread "
        "while the network trains; and the noise is drawn twice. Memory: the data of two pools, or their indices."
    )

    def __init__(
        self,
        coupling: Coupling,
        size: int = 2048,
        *,
        seed: int = 0,
        data: Callable[[Any], Tensor] | None = None,
        labels: Callable[[Any], Tensor] | None = None,
        fetch: Callable[[Any], Any] | None = None,
        background: bool = True,
    ) -> None:
        parts = parts_of(coupling)
        if parts is None:
            raise InputError(
                f"a pool must be paired by an assignment, got {coupling}: other couplings pair each datum on its own, "
                "batch by batch, and need none."
            )
        for name, value, least in (("size", size, 1), ("seed", seed, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"`{name}` must be a whole number of at least {least}, got {value!r}.")
        self.size, self.seed, self.background = size, seed, background
        self._parts, self._ranks = parts, partial(ranks_of, coupling)
        self._reader = Reader(data or _first, labels, fetch or (lambda given: given))
        self._state = {"pool": 0, "first_batch": 0, "handed_out": 0}
        self._resumes = False

    @property
    def first_batch(self) -> int:
        """The batch, counted from the beginning of the pass, with which the pool in hand begins.

        A loader that can begin there, as accelerate's ``skip_first_batches`` makes one, spares a run that resumes from
        reading what is before: ``pool(loader, first=pool.first_batch)``.
        """
        return self._state["first_batch"]

    def state_dict(self) -> dict[str, int]:
        """Where the pool stands, as a few whole numbers: what has been handed out counts as done with."""
        return {"size": self.size, "seed": self.seed, **self._state}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the next pass go on where another stood, to the bit; it needs the same batches in the same order.

        Raises:
            InputError: If the state is one of a pool of another size or seed.
        """
        own = self.state_dict()
        if state.keys() != own.keys() or any(state[name] != own[name] for name in ("size", "seed")):
            raise InputError(
                f"the state must be one of a pool with size {self.size} and seed {self.seed}, got {state}: make the "
                "pool with its size and seed."
            )
        self._state = {name: int(state[name]) for name in self._state}
        self._resumes = True

    def __call__(self, batches: Iterable[Any], first: int = 0) -> Passes:
        """Makes one pass over a loader, and another each time that what this gives is iterated over again.

        With a global pool all ranks make it together, each over its own loader. One whose loader is at its end takes
        part in the others' pools until they are at theirs. It has a length if the loader has one.

        A loader prepared by accelerate says of each batch that is handed out whether it is the last, as it would
        without a pool, so gradients are accumulated over as many batches and no step is lost or added.

        Arguments:
            batches: The loader.
            first: The number of its first batch, where that is not the first of the pass, see :attr:`first_batch`.

        Yields:
            The batches as the loader gives them, or as ``fetch`` makes them, each with its noise.

        Raises:
            InputError: If a batch does not fit, or the loader ends before the place to resume at.
        """
        left_out = self.first_batch - first + self._state["handed_out"] if self._resumes else 0
        return Passes(lambda: self._pass(batches, first), batches, left_out)

    def _pass(self, batches: Iterable[Any], first: int) -> Generator[tuple[Any, Tensor], None, None]:
        """One pass, see :meth:`__call__`."""
        if not self._resumes and (self._state["handed_out"] or self.first_batch):
            # The pass before was left early.
            self._begin_pool(self._state["pool"] + 1, 0)
        done, self._resumes = self._state["handed_out"], False
        with ThreadPoolExecutor(1, "immiscible-pairing") as executor:
            background = executor if self.background else None
            pairer = PoolPairer(self._parts, self._ranks(), background)
            reading, filling = together(pairer.ranks, lambda: self._opened(batches, first, pairer))
            yield from self._pools(filling, reading, done)
            # Not where the pass is left early: a loader left early says what it last said, too.
            reading.end()

    def _opened(self, batches: Iterable[Any], first: int, pairer: PoolPairer) -> tuple[Reading, Filling]:
        """The loader, at the batch that the pool in hand begins with."""
        if first > self.first_batch:
            raise InputError(f"`first` must be at most {self.first_batch}, where the pool begins, got {first}.")
        reading = Reading(batches)
        filling = Filling(pairer, self._reader, self.size, self.seed, reading)
        skipped = first + filling.skip(self.first_batch - first)
        if skipped < self.first_batch:
            raise InputError(f"the loader must have at least {self.first_batch} batches, got {skipped}.")
        return reading, filling

    def _pools(self, filling: Filling, reading: Reading, done: int) -> Generator[tuple[Any, Tensor], None, None]:
        """The batches of all pools that are left, but for the first few of the first pool."""
        filled = filling.next(self._state["pool"])
        while filled is not None:
            number, noises = self._state["pool"], filled.noises()
            following = filling.next(number + 1) if self.background else None
            for index in range(done, len(noises)):
                given = filled.batches[index]
                # Before it is handed out, since who has it may ask for the state.
                self._state["handed_out"] = index + 1
                reading.hand_out(given)
                yield self._reader.fetch(given.batch), noises[index]()
            done = 0
            self._begin_pool(number + 1, self.first_batch + len(noises))
            filled = following if self.background else filling.next(number + 1)
        self._begin_pool(self._state["pool"], 0)

    def _begin_pool(self, number: int, first_batch: int) -> None:
        self._state = {"pool": number, "first_batch": first_batch, "handed_out": 0}


class Passes(Generator[tuple[Any, Tensor], None, None]):
    """A pass over a loader in pools, see :meth:`Pool.__call__`; once it is over, iterating makes another.

    So it can stand in the place of a loader, for all epochs. Left early, it goes on where it was.
    """

    def __init__(
        self, begin: Callable[[], Generator[tuple[Any, Tensor], None, None]], batches: Iterable[Any], left_out: int
    ) -> None:
        self._begin, self._batches, self._left_out = begin, batches, left_out
        self._pass, self._count = begin(), 0

    def __iter__(self) -> Passes:
        if self._is_over():
            self._left_out, self._count, self._pass = 0, 0, self._begin()
        return self

    def _is_over(self) -> bool:
        """Whether all batches were handed out. Who counts them by the length asks for none after the last."""
        with suppress(TypeError):
            if 0 < self._count == len(self):
                next(self._pass, None)
                self._pass.close()
        return getgeneratorstate(self._pass) == GEN_CLOSED

    def __len__(self) -> int:
        """How many batches the pass has, by the length of the loader."""
        return len(self._batches) - self._left_out  # pyright: ignore[reportArgumentType]

    def send(self, value: None, /) -> tuple[Any, Tensor]:
        handed_out = self._pass.send(value)
        self._count += 1
        return handed_out

    def throw(self, typ: Any, val: Any = None, tb: Any = None, /) -> tuple[Any, Tensor]:
        return self._pass.throw(typ if val is None else val.with_traceback(tb))

    def close(self) -> None:
        self._pass.close()


def _first(batch: Any) -> Tensor:
    """The data of a batch that is a tensor or begins with one."""
    if isinstance(batch, Sequence) and len(batch) > 1 and all(map(_is_image, batch)):
        raise InputError(
            f"a batch must be a tensor or a tuple that begins with one, got a list of {len(batch)} tensors that look "
            "like images: make batches of one shape with a sampler of buckets, or give `data`, such as "
            "`data=lambda batch: batch[0]`."
        )
    data = batch[0] if isinstance(batch, Sequence) and len(batch) else batch
    if not isinstance(data, Tensor):
        raise InputError(
            f"a batch must be a tensor or a tuple that begins with one, got {type(batch).__name__}: give `data`, such "
            'as `data=lambda batch: batch["image"]`.'
        )
    return data


def _is_image(part: Any) -> bool:
    """Whether something has the shape of one image or latent, (C, H, W) with few channels."""
    return isinstance(part, Tensor) and part.is_floating_point() and part.ndim == 3 and part.shape[0] in CHANNELS
