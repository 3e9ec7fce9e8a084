r"""From noise to samples: the flow :math:`\dot x = v(x, t)` solved from :math:`t = 0` (noise) to :math:`t = 1` (data).

Every sampler counts its network calls (``nfe``), the price that few-step quality is measured by. One call is one
evaluation of the velocity for the whole batch; guidance evaluates two classes in one call and counts once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from immiscible.errors import InputError

Velocity = Callable[[Tensor, Tensor], Tensor]
Method = Literal["euler", "heun", "adaptive"]


@dataclass(frozen=True)
class Samples:
    r"""What a sampler returns: ``images`` with shape (B, \*) and ``nfe``, the number of network calls it took."""

    images: Tensor
    nfe: int


@dataclass(frozen=True)
class Solver:
    """A sampling method and its number of network calls, None where the method chooses it.

    Arguments:
        method: ``euler``, ``heun`` (two calls a step) or ``adaptive`` (Dormand-Prince 5(4) of torchdiffeq).
        nfe: Network calls, at least 1; even for ``heun``; None for ``adaptive``.
        tolerance: Absolute and relative tolerance of ``adaptive``.
    """

    method: Method
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
    def __call__(self, velocity: Velocity, noise: Tensor) -> Samples:
        r"""Solves from noise to data.

        Arguments:
            velocity: Maps points with shape (B, \*) and times with shape (B,) to velocities with shape (B, \*).
            noise: Where to start, with shape (B, \*).
        """
        counted = _Counted(velocity)
        match self.method:
            case "euler":
                images = _euler(counted, noise, self.nfe or 1)
            case "heun":
                images = _heun(counted, noise, (self.nfe or 2) // 2)
            case "adaptive":
                images = _adaptive(counted, noise, self.tolerance)
        return Samples(images, counted.calls)

    def __str__(self) -> str:
        return "adaptive" if self.method == "adaptive" else str(self.nfe)


def parse_solvers(text: str, method: Literal["euler", "heun"] = "euler") -> list[Solver]:
    """Reads a list such as ``2,5,10,50,adaptive``: numbers of network calls for ``method``, or the adaptive solver."""
    return [_parse_solver(word.strip(), method) for word in text.split(",")]


def _parse_solver(word: str, method: Literal["euler", "heun"]) -> Solver:
    if word == "adaptive":
        return Solver("adaptive")
    if not word.isdecimal():
        raise InputError(f"--nfe must list whole numbers or adaptive, such as 2,5,10,adaptive, got {word!r}.")
    return Solver(method, int(word))


class _Counted:
    """A velocity that takes one time for all points and counts its calls."""

    def __init__(self, velocity: Velocity) -> None:
        self.velocity = velocity
        self.calls = 0

    def __call__(self, t: float | Tensor, x: Tensor) -> Tensor:
        self.calls += 1
        return self.velocity(x, torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x)))


def _euler(velocity: _Counted, x: Tensor, steps: int) -> Tensor:
    for step in range(steps):
        x = x + velocity(step / steps, x) / steps
    return x


def _heun(velocity: _Counted, x: Tensor, steps: int) -> Tensor:
    for step in range(steps):
        start = velocity(step / steps, x)
        end = velocity((step + 1) / steps, x + start / steps)
        x = x + (start + end) / (2 * steps)
    return x


def _adaptive(velocity: _Counted, x: Tensor, tolerance: float) -> Tensor:
    from torchdiffeq import odeint

    times = torch.tensor([0.0, 1.0], dtype=x.dtype, device=x.device)
    path = cast(Tensor, odeint(velocity, x, times, method="dopri5", rtol=tolerance, atol=tolerance))
    return path[-1]
