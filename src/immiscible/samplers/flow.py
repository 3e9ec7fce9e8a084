r"""Flow samplers: :math:`\dot x = v(x, t)` solved from :math:`t = 0` (noise) to :math:`t = 1` (data).

With a schedule shift :math:`s` the fixed steps are even in :math:`u` with :math:`t = s u / (1 + (s - 1) u)`, the times
that a shifted run was trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor

from immiscible.errors import InputError
from immiscible.processes import shifted_time
from immiscible.samplers.base import Samples

Velocity = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Solver:
    """A sampling method and its number of network calls, None where the method chooses it.

    Arguments:
        method: ``euler``, ``heun`` (two calls a step) or ``adaptive`` (Dormand-Prince 5(4) of torchdiffeq).
        nfe: Network calls, at least 1; even for ``heun``; None for ``adaptive``.
        tolerance: Absolute and relative tolerance of ``adaptive``.
    """

    method: Literal["euler", "heun", "adaptive"]
    nfe: int | None = None
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if self.method == "adaptive":
            return
        if self.nfe is None or self.nfe < 1:
            raise InputError(f"`nfe` must be at least 1, got {self.nfe}.")
        if self.method == "heun" and self.nfe % 2:
            raise InputError(f"`nfe` must be even for heun, which takes two network calls a step, got {self.nfe}.")

    @torch.no_grad()
    def __call__(self, velocity: Velocity, noise: Tensor, shift: float = 1.0, time: float = 0.0) -> Samples:
        r"""Solves from noise to data.

        Arguments:
            velocity: Maps points with shape (B, \*) and times with shape (B,) to velocities with shape (B, \*).
            noise: Where to start, with shape (B, \*).
            shift: The schedule shift, positive; 1 spaces the steps evenly.
            time: The time at which to start, in [0, 1), where ``noise`` is points of that time.
        """
        counted = _Counted(velocity)
        match self.method:
            case "euler":
                images = _euler(counted, noise, euler_times(self.nfe or 1, shift, time))
            case "heun":
                images = _heun(counted, noise, euler_times((self.nfe or 2) // 2, shift, time))
            case "adaptive":
                images = _adaptive(counted, noise, self.tolerance, time)
        return Samples(images, counted.calls)

    @property
    def name(self) -> str:
        """The method."""
        return self.method

    def __str__(self) -> str:
        return "adaptive" if self.method == "adaptive" else str(self.nfe)


class _Counted:
    """A velocity that takes one time for all points and counts its calls."""

    def __init__(self, velocity: Velocity) -> None:
        self.velocity = velocity
        self.calls = 0

    def __call__(self, t: float | Tensor, x: Tensor) -> Tensor:
        self.calls += 1
        return self.velocity(x, torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x)))


def euler_times(steps: int, shift: float, first: float = 0.0) -> list[float]:
    """The times between even steps to 1, from 0 or a later time on."""
    before = shifted_time(first, 1 / shift)
    return [shifted_time(before + (1 - before) * step / steps, shift) for step in range(steps + 1)]


def _euler(velocity: _Counted, x: Tensor, times: list[float]) -> Tensor:
    for start, end in pairwise(times):
        x = x + velocity(start, x) * (end - start)
    return x


def _heun(velocity: _Counted, x: Tensor, times: list[float]) -> Tensor:
    for start, end in pairwise(times):
        first = velocity(start, x)
        second = velocity(end, x + first * (end - start))
        x = x + (first + second) * ((end - start) / 2)
    return x


def _adaptive(velocity: _Counted, x: Tensor, tolerance: float, first: float) -> Tensor:
    from torchdiffeq import odeint

    times = torch.tensor([first, 1.0], dtype=x.dtype, device=x.device)
    path = cast(Tensor, odeint(velocity, x, times, method="dopri5", rtol=tolerance, atol=tolerance))
    return path[-1]
