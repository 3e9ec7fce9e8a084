"""Randomness without state: every draw has a seed of its own, derived from the run's seed and what the draw is for.

Nothing has to be saved to resume exactly, ranks draw differently since their rank is part of what the draw is for, and
two couplings under one seed see the same initial weights, data order, times and noise.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

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
    """A generator on a device, freshly seeded for one purpose at one position."""
    import torch

    from immiscible.seeds import seeded

    derived = derive(seed, purpose, *position)
    return seeded(derived) if torch.device(device).type == "cpu" else torch.Generator(device).manual_seed(derived)
