"""Diffusion samplers: DDPM's ancestral sampling (arXiv 2006.11239) and DDIM (arXiv 2010.02502), both diffusers'.

DDIM's ``eta`` sets how much fresh noise each step adds: 0 adds none, and 1 as much as DDPM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from immiscible.errors import InputError
from immiscible.samplers.base import Samples, Start

if TYPE_CHECKING:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler


@dataclass(frozen=True)
class DiffusionSampler:
    """A sampling method, its number of network calls, which is its number of steps, and its share of fresh noise.

    Arguments:
        method: ``ddim`` or ``ddpm``.
        nfe: Network calls, at least 1 and at most the timesteps of the diffusion.
        eta: The share of fresh noise of ``ddim``, in [0, 1].
    """

    method: Literal["ddim", "ddpm"]
    nfe: int
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.nfe < 1:
            raise InputError(f"`nfe` must be at least 1, got {self.nfe}.")
        if not 0 <= self.eta <= 1:
            raise InputError(f"`eta` must be in [0, 1], got {self.eta}.")
        if self.eta and self.method == "ddpm":
            raise InputError(f"`eta` is a setting of ddim, got {self.eta} with ddpm, which always adds all its noise.")

    @torch.no_grad()
    def __call__(self, predict: Callable[[Tensor, Tensor], Tensor], schedule: DDPMScheduler, start: Start) -> Samples:
        r"""Walks from noise to data.

        Arguments:
            predict: Maps points with shape (B, \*) and timesteps with shape (B,) to what the network predicts.
            schedule: The schedule that the network was trained on.
            start: Where to start.
        """
        if self.fresh:
            start.check_normal(self)
        scheduler = self.scheduler(schedule)
        generators = start.generators()
        x = start.noise
        for t in scheduler.timesteps:
            output = predict(x, t.to(x.device).expand(len(x)))
            extra = {"eta": self.eta} if self.method == "ddim" else {}
            x = scheduler.step(output, t, x, generator=generators, **extra).prev_sample
        return Samples(x, len(scheduler.timesteps))

    def scheduler(self, schedule: DDPMScheduler) -> Any:
        """The scheduler of diffusers with its timesteps, for a network that was trained on a schedule."""
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        timesteps = schedule.config["num_train_timesteps"]
        if self.nfe > timesteps:
            raise InputError(f"--nfe must be at most the {timesteps} timesteps of the diffusion, got {self.nfe}.")
        # diffusers' hints know neither what `from_config` gives nor that `step` takes a generator for each row.
        kind: Any = DDIMScheduler if self.method == "ddim" else DDPMScheduler
        scheduler: Any = kind.from_config(schedule.config)
        scheduler.set_timesteps(self.nfe)
        return scheduler

    @property
    def fresh(self) -> bool:
        """Whether it adds noise on its way."""
        return self.method == "ddpm" or self.eta > 0

    @property
    def name(self) -> str:
        """The method, with eta where it is not zero."""
        return f"{self.method} eta={self.eta:g}" if self.eta else self.method

    def __str__(self) -> str:
        return str(self.nfe)
