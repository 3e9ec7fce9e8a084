"""Diffusion (arXiv 2006.11239), sampled with DDIM (arXiv 2010.02502) or DDPM, on diffusers' schedulers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from immiscible.config.recipes import DDIMConfig
from immiscible.errors import InputError
from immiscible.networks import TIME_SCALE
from immiscible.processes import diffusion, noise_and_datum, shifted_alpha_bar, weighted_mse
from immiscible.samplers import DiffusionSampler, Level, Moment, Sampler, Samples, walk
from immiscible.samplers.base import Start
from immiscible.tasks.base import (
    Facts,
    Paths,
    PixelTask,
    Predict,
    drop_labels,
    guided,
    in_parts,
    initial_network,
    preview,
    unet_for_export,
)
from immiscible.training.task import Batch

PREVIEW_STEPS = 20
# diffusers' names of what is predicted and of the schedules.
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


@dataclass(frozen=True)
class DiffusionTask(PixelTask):
    """Diffusion as the training loop sees it."""

    config: DDIMConfig
    schedule: DDPMScheduler
    paths: ClassVar[Paths] = "smooth"

    @staticmethod
    def build(config: DDIMConfig, facts: Facts) -> DiffusionTask:
        """Builds the network, the schedule and all else."""
        network = initial_network(config, facts)
        return DiffusionTask(config, network, facts.shape, facts.classes, make_schedule(config))

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The diffusion loss at uniform timesteps."""
        count, device = self.config.timesteps, batch.x.device
        t = torch.randint(count, (len(batch.x),), generator=batch.generator, device=device)
        alpha_bar = self.schedule.alphas_cumprod.to(device)[t]
        example = diffusion(batch.x, batch.noise, alpha_bar, self.config.prediction, self.config.min_snr)
        labels = drop_labels(batch.condition, self.classes, self.config.label_dropout, batch.generator)
        return weighted_mse(network(example.x_t, t / TIME_SCALE, labels), example)

    def sample(self, network: nn.Module, start: Start, sampler: Sampler, guidance: float = 1.0) -> Samples:
        """Walks back from noise, see :class:`~immiscible.tasks.base.PublishedTask`."""
        steps = cast(DiffusionSampler, sampler)

        def draw(part: Start) -> Samples:
            if part.time:
                *_, last = self._midway(network, part, steps.nfe, guidance)
                return Samples(last.datum, steps.nfe)
            predict = guided(network, part.labels, guidance)
            return steps(lambda x, t: predict(x, t / TIME_SCALE), self.schedule, part)

        return in_parts(network, start, draw, self.config.data_scale, self.at_once)

    def trace(self, network: nn.Module, start: Start, steps: int, guidance: float = 1.0) -> Iterator[Moment]:
        """Follows DDIM's steps, see :class:`~immiscible.tasks.base.PublishedTask`."""
        timesteps = DiffusionSampler("ddim", steps).scheduler(self.schedule).timesteps
        return self._walk(guided(network, start.labels, guidance), start.noise, timesteps)

    def _midway(self, network: nn.Module, start: Start, steps: int, guidance: float) -> Iterator[Moment]:
        """Follows DDIM from the level whose share of the data is nearest to the time of a start, by even steps."""
        signal, spread = (part.sqrt() for part in (self.schedule.alphas_cumprod, 1 - self.schedule.alphas_cumprod))
        first = int((signal / (signal + spread) - start.time).abs().argmin())
        if steps > first + 1:
            raise InputError(
                f"--nfe must be at most the {first + 1} timesteps from the time {start.time:g} on, got {steps}."
            )
        points = start.mixed(signal[first].item() * self.config.data_scale, spread[first].item())
        timesteps = torch.arange(first + 1, 0, -(first + 1) / steps, dtype=torch.float64).round().long()[:steps] - 1
        return self._walk(guided(network, start.labels, guidance), points, timesteps)

    def _walk(self, predict: Predict, x: Tensor, timesteps: Tensor) -> Iterator[Moment]:
        """DDIM's steps without fresh noise, from points at the first of some timesteps."""
        most, alpha_bar = self.config.data_scale, self.schedule.alphas_cumprod[timesteps]

        def guess(x: Tensor, step: int) -> tuple[Tensor, Tensor]:
            t = timesteps[step].to(x.device).expand(len(x))
            output = predict(x, t / TIME_SCALE)
            noise, datum = noise_and_datum(output, x, alpha_bar[step].to(x.device), self.config.prediction)
            return noise, datum.clamp(-most, most)

        return walk(guess, x, levels_of(alpha_bar))

    def preview(self, network: nn.Module) -> Tensor:
        """A few samples, see :func:`~immiscible.tasks.base.preview`."""
        sampler = DiffusionSampler("ddim", min(PREVIEW_STEPS, self.config.timesteps))
        return preview(self, network, self.config.seed, sampler)

    def pipeline(self, method: str) -> Any:
        """The pipeline of diffusers with the network, which is its unconditional one.

        Arguments:
            method: ``ddim`` or ``ddpm``.

        Raises:
            InputError: If it would not draw what the run draws.
        """
        from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
        from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        unet = unet_for_export(self)
        if self.classes:
            raise InputError(
                f"export needs an unconditional run for diffusion, got one with {self.classes} classes: the pipelines "
                "of diffusers give its U-Net no classes."
            )
        if method == "ddpm":
            return DDPMPipeline(unet, self.schedule)
        scheduler: Any = DDIMScheduler.from_config(self.schedule.config)
        return DDIMPipeline(unet, scheduler)

    def pipeline_call(self, pipeline: str) -> str:
        """The arguments that a pipeline of that class is called with."""
        return f"num_inference_steps={1000 if pipeline == 'DDPMPipeline' else 50}"


def levels_of(alpha_bar: Tensor) -> list[Level]:
    """The amplitudes of datum and noise where the signal has some shares of the variance, with shape (S,)."""
    return [Level(math.sqrt(share), math.sqrt(1 - share)) for share in alpha_bar.tolist()]


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
    return shift_schedule(DDPMScheduler(**settings), config.schedule_shift)


def shift_schedule(schedule: DDPMScheduler, shift: float) -> DDPMScheduler:
    """The same schedule with ``shift`` times the ratio of signal to noise at each timestep."""
    if shift == 1:
        return schedule
    shifted = shifted_alpha_bar(schedule.alphas_cumprod.double(), shift)
    before = torch.cat([shifted.new_ones(1), shifted[:-1]])
    betas = (1 - shifted / before).tolist()
    changed: Any = DDPMScheduler.from_config(schedule.config, trained_betas=betas, rescale_betas_zero_snr=False)
    return changed
