"""The gap between coupled noise and the law that samples start from, for couplings with a source of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from immiscible.couplings.protocol import rows
from immiscible.couplings.source import LowRankMixture
from immiscible.seeds import generator

# What chance exceeds once in this many measurements.
RARE = 100
# A gap counts from this many times what chance gives, and from this much.
TIMES, LEAST = 2.0, 0.05
SEED = 0


@dataclass(frozen=True)
class Gap:
    """How far two laws are apart along the components of one of them.

    Attributes:
        largest: The largest distance of their distribution functions, of all components (Kolmogorov and Smirnov).
        chance: What it is at most by chance, 99 times in 100, where the laws are the same.
    """

    largest: float
    chance: float

    def warning(self) -> str | None:
        """What a source that does not fit does, in one line; None if it fits."""
        if self.largest <= max(LEAST, TIMES * self.chance):
            return None
        return f"the source does not have the law of the noise: {self._figures()}: sampling starts from other noise."

    def said(self) -> str:
        """The same in one line where it fits."""
        return self.warning() or f"the source has the law of the noise: {self._figures()}."

    def _figures(self) -> str:
        return f"their distributions are at most {self.largest:.3f} apart along a component (chance: {self.chance:.3f})"


@torch.no_grad()
def measure_gap(noise: Tensor, law: LowRankMixture, labels: Tensor | None = None) -> Gap:
    r"""Measures the gap.

    Arguments:
        noise: Noise that was coupled, on the CPU, with shape (M, \*).
        law: The law that samples start from.
        labels: The class of each, with shape (M,), where the law is one of each class.
    """
    draws = generator("cpu", SEED, "gap")
    start = law.sample(tuple(noise.shape), labels=labels, generator=draws)
    found, drawn = (rows(values).float() @ law.basis.T for values in (noise, start))
    count = len(found)
    both = torch.cat([found, drawn])
    ahead = torch.cat([torch.ones(count), -torch.ones(count)])[both.argsort(0)].cumsum(0) / count
    chance = math.sqrt(math.log(2 * RARE * len(law.basis)) / count)
    return Gap(ahead.abs().max().item(), chance)
