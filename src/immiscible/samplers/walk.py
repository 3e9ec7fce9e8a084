r"""A walk from noise to data that shows what the network predicts at each step.

All systems here mix datum and noise by two amplitudes, :math:`x_t = a\,x + b\,n`, and at each point the network says
which noise :math:`\hat n` and which datum :math:`\hat x` it takes it for. One step mixes the two again, at the next
amplitudes. For a flow (:math:`a = t`, :math:`b = 1 - t`) that is Euler's step, for diffusion DDIM's without fresh noise
(arXiv 2010.02502, equation 12).

*One clock for all systems.* Divided by :math:`a + b` every such path is one of flow matching at the time
:math:`\tau = a / (a + b)`, and :math:`\hat x - \hat n` is its velocity. So what is measured of flows, such as how
straight paths are, means the same for diffusion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Level(NamedTuple):
    """The amplitudes of datum and noise at a step, not both zero."""

    signal: float
    spread: float


@dataclass(frozen=True)
class Moment:
    r"""What is there at one step, as it is diffused: scaled, and latents where the system diffuses those.

    Attributes:
        level: The amplitudes of datum and noise.
        point: The noisy points, with shape (B, \*).
        noise: The noise that the network takes to be in them, with the same shape.
        datum: What it takes for the data in them, with the same shape.
    """

    level: Level
    point: Tensor
    noise: Tensor
    datum: Tensor

    @property
    def time(self) -> float:
        """The share of the datum, in [0, 1]: 0 is noise, 1 is data."""
        return self.level.signal / (self.level.signal + self.level.spread)


Guess = Callable[[Tensor, int], tuple[Tensor, Tensor]]


@torch.no_grad()
def walk(guess: Guess, x: Tensor, levels: Sequence[Level]) -> Iterator[Moment]:
    r"""Walks from noise to data without fresh noise. The datum of the last step is the sample.

    Arguments:
        guess: Maps points with shape (B, \*) and the number of the step to noise and datum, each with that shape.
        x: The points at the first level, with shape (B, \*).
        levels: The amplitudes at each step.
    """
    for step, level in enumerate(levels):
        noise, datum = guess(x, step)
        yield Moment(level, x, noise, datum)
        if step + 1 < len(levels):
            x = levels[step + 1].signal * datum + levels[step + 1].spread * noise
