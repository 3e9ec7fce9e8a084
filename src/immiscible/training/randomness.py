"""Randomness without state: every draw has a seed of its own, derived from the run's seed and what the draw is for.

Nothing has to be saved to resume exactly, ranks draw differently since their rank is part of what the draw is for, and
two couplings under one seed see the same initial weights, data order, times and noise.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(seed: int, purpose: str, *position: int) -> int:
    """A seed in [0, 2^63) for one purpose at one position (step, micro-batch, rank, ...)."""
    text = ":".join([str(seed), purpose, *map(str, position)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(device: torch.device | str, seed: int, purpose: str, *position: int) -> torch.Generator:
    """A generator on a device, freshly seeded for one purpose at one position."""
    import torch

    return torch.Generator(device).manual_seed(derive(seed, purpose, *position))
