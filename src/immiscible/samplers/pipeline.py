"""Samplers of text-to-image pipelines: a scheduler of diffusers and a number of steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from immiscible.errors import InputError

Scheduler = Literal["ddim", "pndm", "dpm++", "euler"]


@dataclass(frozen=True)
class PipelineSampler:
    """A scheduler and a number of sampling steps, each of which is one network call; ``pndm`` makes one more.

    Arguments:
        method: ``ddim`` (arXiv 2010.02502), ``pndm`` (2202.09778), ``dpm++`` (2211.01095, second order) or ``euler``
            (2206.00364).
        steps: The number of steps, at least 1.
    """

    method: Scheduler
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"--steps must be at least 1, got {self.steps}.")

    def scheduler(self, config: dict[str, Any]) -> Any:
        """The scheduler of diffusers, with the noise levels of a trained model's own."""
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
        from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
        from diffusers.schedulers.scheduling_pndm import PNDMScheduler

        timesteps = config.get("num_train_timesteps", 1000)
        if self.steps > timesteps:
            raise InputError(f"--steps must be at most the {timesteps} timesteps of the model, got {self.steps}.")
        kinds: dict[str, Any] = {
            "ddim": DDIMScheduler,
            "pndm": PNDMScheduler,
            "dpm++": DPMSolverMultistepScheduler,
            "euler": EulerDiscreteScheduler,
        }
        # Without this PNDM begins with Runge-Kutta steps, which take four calls each.
        special = {"skip_prk_steps": True} if self.method == "pndm" else {}
        return kinds[self.method].from_config(config, **special)

    @property
    def name(self) -> str:
        """The method."""
        return self.method

    def __str__(self) -> str:
        return str(self.steps)
