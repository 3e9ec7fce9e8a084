"""Draws the noise of a micro-batch and couples it with the data, every draw from a seed of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from immiscible.couplings.assignment import SEEDS
from immiscible.couplings.protocol import Coupling, Independent
from immiscible.couplings.spaces import given
from immiscible.seeds import generator

GOLDEN = (5**0.5 - 1) / 2
# The share of blocks that are timed on a GPU.
SHARE = 0.1


@dataclass
class Stopwatch:
    """The mean time of its ``with`` blocks. On a GPU about one in ten is timed, since timing waits for the device.

    Which ones are timed has no period: multiples of the golden ratio, modulo 1, fall evenly whatever else repeats. Were
    it every tenth, then of two kinds of blocks that take turns one would never be timed.
    """

    device: torch.device
    seconds: float = 0.0
    timed: int = 0
    entered: int = 0
    _start: float | None = field(default=None, repr=False)

    def __enter__(self) -> Stopwatch:
        timed = self.device.type == "cpu" or self.entered * GOLDEN % 1 < SHARE
        self.entered += 1
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

    def ms_per(self, other: Stopwatch) -> float:
        """Milliseconds per block of another, which may have more of them or fewer."""
        return self.mean_ms * self.entered / max(other.entered, 1)

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
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

    def noise(
        self, x: Tensor, labels: Tensor | None, step: int, micro: int, rank: int, condition: Tensor | None = None
    ) -> Tensor:
        r"""Paired noise for a micro-batch of a step on a rank, with the shape of ``x``.

        Arguments:
            x: The data, with shape (B, \*).
            labels: The group of each that noise stays within, with shape (B,), or None.
            step: The step.
            micro: The number of the micro-batch in the step.
            rank: The rank.
            condition: What the network is conditioned on, with B rows, or None: some spaces rank by it.
        """
        noise = self.drawn(x.shape, x.device, step, micro, rank)
        draws = self.draws(x.device, step, micro, rank)
        with self.watch:
            coupling = given(self.coupling, condition) if self.coupled(step) else Independent()
            return coupling(x, noise, labels=labels, generator=draws)

    def drawn(self, shape: torch.Size, device: torch.device, step: int, micro: int, rank: int) -> Tensor:
        """The noise of a micro-batch of a step on a rank as it is drawn. Any rank can draw that of any other."""
        return torch.randn(shape, generator=generator(device, self.seed, "noise", step, micro, rank), device=device)

    def draws(self, device: torch.device, step: int, micro: int, rank: int) -> torch.Generator:
        """What the coupling draws from."""
        return generator(device, self.seed, "coupling", step, micro, rank)

    def coin_and_seed(self, device: torch.device, step: int, micro: int, p: float) -> tuple[float, int]:
        """What a pool that begins at a micro-batch is paired by, alike on all ranks.

        The coin is tossed as :class:`Mixed` would toss it, and the seed drawn as :class:`LinearAssignment` would draw.
        """
        draws = self.draws(device, step, micro, 0)
        coin = 0.0 if p == 1 else torch.rand((), generator=draws, device=device).item()
        return coin, int(torch.randint(SEEDS, (1,), generator=draws, device=device))

    def coupled(self, step: int) -> bool:
        """Whether the noise of a step is coupled."""
        return step >= self.start and (step < self.stop or not self.stop)
