r"""Consistency sampling (arXiv 2303.01469, algorithm 1), by diffusers' scheduler.

One step maps noise of the largest level straight to data. More steps add noise again, of smaller levels, and map again.
For two steps the level between is the 0.821 of arXiv 2310.14189, or the nearest to it of the scheduler's levels; for
more they are evenly spaced among those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from immiscible.errors import InputError
from immiscible.samplers.base import Samples, Start

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_consistency_models import CMStochasticIterativeScheduler

SECOND_LEVEL = 0.821


@dataclass(frozen=True)
class Multistep:
    """Consistency sampling with a number of network calls, at least 1."""

    nfe: int

    def __post_init__(self) -> None:
        if self.nfe < 1:
            raise InputError(f"`nfe` must be at least 1, got {self.nfe}.")

    @torch.no_grad()
    def __call__(
        self,
        predict: Callable[[Tensor, Tensor], Tensor],
        scheduler: CMStochasticIterativeScheduler,
        start: Start,
        second: float = SECOND_LEVEL,
    ) -> Samples:
        r"""Maps noise to data.

        Arguments:
            predict: Maps scaled points with shape (B, \*) and the scheduler's timesteps with shape (B,) to what the
                network gives.
            scheduler: A fresh scheduler with the levels that the network was trained on.
            start: Where to start; its noise is standard normal unless there is one step.
            second: The noise level between two steps.
        """
        if self.fresh:
            start.check_normal(self)
        if self.nfe > scheduler.config["num_train_timesteps"]:
            raise InputError(f"--nfe must be at most {scheduler.config['num_train_timesteps']}, got {self.nfe}.")
        if self.nfe == 2:
            scheduler.set_timesteps(timesteps=two_steps(scheduler, second))
        else:
            scheduler.set_timesteps(self.nfe)
        generators = start.generators()
        x = start.noise * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t)
            output = predict(scaled, t.to(x.device, x.dtype).expand(len(x)))
            # diffusers draws a row from each generator of a list, though its hint names a single one.
            x = scheduler.step(output, t, x, generator=generators).prev_sample  # pyright: ignore
        return Samples(x, len(scheduler.timesteps))

    @property
    def fresh(self) -> bool:
        """Whether it adds noise on its way: it does so between two steps."""
        return self.nfe > 1

    @property
    def name(self) -> str:
        """The method."""
        return "multistep"

    def __str__(self) -> str:
        return str(self.nfe)


def multistep(method: str, nfe: int) -> Multistep:
    """The sampler of a method, of which there is one."""
    return Multistep(nfe)


def two_steps(scheduler: CMStochasticIterativeScheduler, second: float = SECOND_LEVEL) -> list[int]:
    """The scheduler's timesteps for two steps, the later one first, as its pipeline takes them.

    Arguments:
        scheduler: A scheduler with the levels that the network was trained on.
        second: The noise level between the steps, which the nearest of these is taken for.
    """
    # A fresh one still has all of its levels. diffusers' hint says that `from_config` may give more than a scheduler.
    fresh: Any = type(scheduler).from_config(scheduler.config)
    return [max(1, int((fresh.sigmas - second).abs().argmin())), 0]
