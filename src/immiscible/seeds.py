"""Randomness without state: every draw has a seed of its own, and generators use all of it.

A seed is derived from the seed of the run and from what the draw is for. Nothing has to be saved to resume exactly,
ranks draw differently since their rank is part of what the draw is for, and two couplings under one seed see the same
initial weights, data order, times and noise.

torch seeds a generator on the CPU with the last 32 bits of what it is given, and ignores the rest. Of 100,000 seeds
that are drawn at random, one or two then give the stream of another. Here the whole seed is spread over the state of
the generator, the 19,968 bits of a Mersenne Twister, by the hash SHAKE-128. So two streams coincide where two seeds
do: of 100 million seeds of 63 bits any two do so with a chance of 1 in 1,800. Generators on other devices use 64 bits
by themselves.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# What torch uses by itself.
BITS_OF_TORCH = 32
# Where torch keeps the seed and the 624 words of the Mersenne Twister, each as a number of 64 bits.
SEED, WORDS = slice(0, 8), slice(24, 24 + 8 * 624)
# How much of a derived seed a generator uses, which is written down with a run: other bits, other randomness.
SEED_BITS = 63


class ShortSeed(int):
    """The seed of a run from before generators on the CPU used more than 32 bits of what is derived from it.

    What such a run draws is drawn as it was then.
    """

    BITS = 32


def seed_of(bits: int, seed: int) -> int:
    """A seed for a run whose generators use some bits of what is derived from it."""
    return ShortSeed(seed) if bits == ShortSeed.BITS else seed


def derive(seed: int, purpose: str, *position: int) -> int:
    """A seed in [0, 2^63) for one purpose at one position (step, micro-batch, rank, ...)."""
    text = ":".join([str(int(seed)), purpose, *map(str, position)])
    derived = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
    return derived & (2**ShortSeed.BITS - 1) if isinstance(seed, ShortSeed) else derived


def generator(device: torch.device | str, seed: int, purpose: str, *position: int) -> torch.Generator:
    """A generator on a device, freshly seeded for one purpose at one position.

    Arguments:
        device: The device.
        seed: The seed of the run.
        purpose: What is drawn.
        position: Where in the run: the step, the micro-batch, the rank, and so on.
    """
    derived = derive(seed, purpose, *position)
    return seeded(derived) if torch.device(device).type == "cpu" else torch.Generator(device).manual_seed(derived)


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU whose stream depends on all bits of a seed in [0, 2^64).

    Seeds below 2^32 give the streams that torch gives them.

    Example:
        >>> one, other = (torch.rand(2, generator=seeded(seed)) for seed in (7, 7 + 2**32))
        >>> torch.equal(one, other)
        False
    """
    if seed >> BITS_OF_TORCH == 0:
        return torch.Generator("cpu").manual_seed(seed)
    draws = torch.Generator("cpu")
    draws.set_state(_state(seed))
    return draws


def seed_all(seed: int) -> None:
    """Seeds torch's own generators, which dropout and initial weights draw from, on all devices."""
    torch.manual_seed(seed)
    torch.set_rng_state(seeded(seed).get_state())


def _state(seed: int) -> Tensor:
    """The state of a generator that was given a seed, as bytes."""
    state = _template().clone()
    spread = hashlib.shake_128(seed.to_bytes(8, "little")).digest(4 * 624)
    state[WORDS] = _as_bytes(np.frombuffer(spread, "<u4"))
    # Some ask a generator for the seed that it was given.
    state[SEED] = _as_bytes(np.array([seed], np.uint64))
    return state


def _as_bytes(numbers: NDArray[Any]) -> Tensor:
    """Numbers as torch keeps them in the state, 64 bits each."""
    return torch.from_numpy(numbers.astype(np.uint64).view(np.uint8))


@functools.cache
def _template() -> Tensor:
    """The state of a new generator.

    Raises:
        RuntimeError: If this version of torch keeps its state in another way than those that are known.
    """
    seed = 20_090_105
    state = torch.Generator("cpu").manual_seed(seed).get_state()
    # NumPy's old generator is seeded in the same way, and shows its words.
    words = np.random.RandomState(seed).get_state(legacy=False)["state"]["key"]
    expected = [(SEED, np.array([seed])), (WORDS, words)]
    if not all(torch.equal(state[place], _as_bytes(numbers)) for place, numbers in expected):
        raise RuntimeError(
            f"torch {torch.__version__} keeps the state of its generators in another way than this version of "
            f"immiscible knows: take another version of one of them."
        )
    return state
