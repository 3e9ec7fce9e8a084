"""Draws the noise of a micro-batch and couples it with the data, every draw from a seed of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from immiscible.couplings.base import Coupling, Independent
from immiscible.training.randomness import generator


@dataclass
class Stopwatch:
    """The mean time of its ``with`` blocks. On a GPU only every tenth is timed, since timing waits for the device."""

    device: torch.device
    seconds: float = 0.0
    timed: int = 0
    _entered: int = 0
    _start: float | None = field(default=None, repr=False)

    def __enter__(self) -> Stopwatch:
        timed = self.device.type == "cpu" or self._entered % 10 == 0
        self._entered += 1
        self._start = self._now() if timed else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._start is not None:
            self.seconds += self._now() - self._start
            self.timed += 1

    @property
    def mean_ms(self) -> float:
        """Milliseconds per block."""
        return 1000 * self.seconds / max(self.timed, 1)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class Pairing:
    """The noise of a run.

    Arguments:
        coupling: Which noise goes with which datum.
        seed: The seed of the run.
        watch: Takes the time of the coupling alone.
        start: The first step whose noise is coupled.
        stop: The first step whose noise is independent again; 0 for never.
    """

    coupling: Coupling
    seed: int
    watch: Stopwatch
    start: int = 0
    stop: int = 0

    def noise(self, x: Tensor, labels: Tensor | None, step: int, micro: int, rank: int) -> Tensor:
        """Paired noise for a micro-batch of a step on a rank, with the shape of ``x``."""
        position = (step, micro, rank)
        noise = torch.randn(x.shape, generator=generator(x.device, self.seed, "noise", *position), device=x.device)
        draws = generator(x.device, self.seed, "coupling", *position)
        coupled = step >= self.start and (step < self.stop or not self.stop)
        with self.watch:
            return (self.coupling if coupled else Independent())(x, noise, labels=labels, generator=draws)
