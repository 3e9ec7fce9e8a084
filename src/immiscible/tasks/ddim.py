"""Diffusion (arXiv 2006.11239), sampled with DDIM (arXiv 2010.02502) or DDPM, on diffusers' schedulers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from immiscible.networks import TIME_SCALE
from immiscible.processes import diffusion, shifted_alpha_bar, weighted_mse
from immiscible.samplers import AnySampler, DiffusionSampler, Samples
from immiscible.samplers.base import Start
from immiscible.tasks.common import Shape, drop_labels, guided, in_parts, initial_network, preview
from immiscible.training.loop import Batch
from immiscible.training.recipes import DDIMConfig

PREVIEW_STEPS = 20
# diffusers' names of what is predicted and of the schedules.
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


@dataclass(frozen=True)
class DiffusionTask:
    """Diffusion as the training loop sees it."""

    config: DDIMConfig
    network: nn.Module
    shape: Shape
    classes: int
    schedule: DDPMScheduler

    @staticmethod
    def build(config: DDIMConfig, shape: Shape, classes: int) -> DiffusionTask:
        """Builds the network, the schedule and all else."""
        return DiffusionTask(config, initial_network(config, shape, classes), shape, classes, make_schedule(config))

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The diffusion loss at uniform timesteps."""
        count, device = self.config.timesteps, batch.x.device
        t = torch.randint(count, (len(batch.x),), generator=batch.generator, device=device)
        alpha_bar = self.schedule.alphas_cumprod.to(device)[t]
        example = diffusion(batch.x, batch.noise, alpha_bar, self.config.prediction, self.config.min_snr)
        labels = drop_labels(batch.labels, self.classes, self.config.label_dropout, batch.generator)
        return weighted_mse(network(example.x_t, t / TIME_SCALE, labels), example)

    def sample(self, network: nn.Module, start: Start, sampler: AnySampler, guidance: float = 1.0) -> Samples:
        """Walks back from noise, see :class:`~immiscible.tasks.common.ImageTask`."""
        walk = cast(DiffusionSampler, sampler)

        def draw(part: Start) -> Samples:
            predict = guided(network, part.labels, guidance)
            return walk(lambda x, t: predict(x, t / TIME_SCALE), self.schedule, part)

        return in_parts(network, start, draw, self.config.data_scale)

    def preview(self, network: nn.Module) -> Tensor:
        """A few samples, see :func:`~immiscible.tasks.common.preview`."""
        sampler = DiffusionSampler("ddim", min(PREVIEW_STEPS, self.config.timesteps))
        return preview(self, network, self.shape, self.config.seed, sampler)


def make_schedule(config: DDIMConfig) -> DDPMScheduler:
    """The scheduler of diffusers that a configuration asks for; DDIM's is made of the same settings.

    Predicted images are clipped to the range of the scaled data.
    """
    settings: dict[str, Any] = {
        "num_train_timesteps": config.timesteps,
        "beta_schedule": SCHEDULES[config.schedule],
        "prediction_type": PREDICTIONS[config.prediction],
        "rescale_betas_zero_snr": config.zero_terminal_snr,
        "timestep_spacing": config.spacing,
        "clip_sample": True,
        "clip_sample_range": config.data_scale,
    }
    schedule = DDPMScheduler(**settings)
    if config.schedule_shift == 1:
        return schedule
    shifted = shifted_alpha_bar(schedule.alphas_cumprod.double(), config.schedule_shift)
    before = torch.cat([shifted.new_ones(1), shifted[:-1]])
    betas = (1 - shifted / before).tolist()
    return DDPMScheduler(**settings | {"trained_betas": betas, "rescale_betas_zero_snr": False})
