r"""Consistency training (arXiv 2303.01469) by the improved recipe (iCT, arXiv 2310.14189).

The network is wrapped so that it is the identity at the smallest noise level,

.. math:: f(x, \sigma) = c_\mathrm{skip}(\sigma)\,x + c_\mathrm{out}(\sigma)\,F\big(c_\mathrm{in}(\sigma)\,x,
    \tfrac{1}{4}\log\sigma\big),

and trained to give the same image at two neighbouring levels :math:`\sigma_i < \sigma_{i+1}` of one path, that is of
one datum and *one* noise, so a coupling changes both ends of a pair alike:

.. math:: \frac{1}{\sigma_{i+1} - \sigma_i}\,d\big(f(x + \sigma_{i+1} n,\, \sigma_{i+1}),\;
    \mathrm{sg}\,f(x + \sigma_i n,\, \sigma_i)\big)

with the pseudo-Huber distance :math:`d`, no moving average in the target, lognormal levels and a number of levels that
doubles along the training (sections 3.2 to 3.5 there).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from diffusers.schedulers.scheduling_consistency_models import CMStochasticIterativeScheduler
from torch import Tensor, nn

from immiscible.config.recipes import ConsistencyConfig
from immiscible.couplings.protocol import per_row
from immiscible.couplings.source import Normal
from immiscible.errors import InputError
from immiscible.networks import TIME_SCALE
from immiscible.processes import pseudo_huber
from immiscible.samplers import Level, Moment, Multistep, Sampler, Samples
from immiscible.samplers.base import Start
from immiscible.samplers.consistency import SECOND_LEVEL, two_steps
from immiscible.seeds import seed_all
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

PREVIEW_SAMPLER, PREVIEW_OF_INFORMED = Multistep(2), Multistep(1)


@dataclass(frozen=True)
class ConsistencyTask(PixelTask):
    """Consistency training as the training loop sees it."""

    config: ConsistencyConfig
    paths: ClassVar[Paths] = "noisy"

    @staticmethod
    def build(config: ConsistencyConfig, facts: Facts) -> ConsistencyTask:
        """Builds the network and all else. A schedule shift divides every noise level."""
        shift = config.schedule_shift
        shifted = dataclasses.replace(
            config,
            sigma_min=config.sigma_min / shift,
            sigma_max=config.sigma_max / shift,
            time_mean=config.time_mean - math.log(shift),
        )
        return ConsistencyTask(shifted, initial_network(config, facts), facts.shape, facts.classes)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The loss between neighbouring noise levels of the same datum and noise."""
        levels = self.levels(batch.step).to(batch.x.device)
        index = torch.multinomial(
            level_weights(levels, self.config), len(batch.x), replacement=True, generator=batch.generator
        )
        labels = drop_labels(batch.condition, self.classes, self.config.label_dropout, batch.generator)
        # Both ends see the same dropout: only the noise level may tell them apart.
        seed = batch.generator.initial_seed()
        lower, upper = levels[index], levels[index + 1]
        with torch.no_grad():
            target = self._denoised(network, batch, lower, labels, seed)
        prediction = self._denoised(network, batch, upper, labels, seed)
        c = self.config.huber * math.sqrt(math.prod(self.shape))
        return (pseudo_huber(prediction, target, c) / (upper - lower)).mean()

    def _denoised(self, network: nn.Module, batch: Batch, sigma: Tensor, labels: Tensor | None, seed: int) -> Tensor:
        seed_all(seed)
        x = batch.x + per_row(sigma, batch.x) * batch.noise
        return denoised(lambda points, t: network(points, t, labels), x, sigma, self.config)

    def levels(self, step: int) -> Tensor:
        """The noise levels at a step, ascending, with shape (N + 1,)."""
        count = level_count(step, self.config)
        return karras_levels(count + 1, self.config)

    def sample(self, network: nn.Module, start: Start, sampler: Sampler, guidance: float = 1.0) -> Samples:
        """Maps noise to data in a few steps, see :class:`~immiscible.tasks.base.PublishedTask`."""
        multistep = cast(Multistep, sampler)

        def draw(part: Start) -> Samples:
            predict = guided(network, part.labels, guidance)
            scheduler = make_scheduler(self.config)
            return multistep(lambda x, t: predict(x, t / TIME_SCALE), scheduler, part, self._second_level)

        return in_parts(network, start, draw, self.config.data_scale, self.at_once)

    @property
    def _second_level(self) -> float:
        return SECOND_LEVEL / self.config.schedule_shift

    def trace(self, network: nn.Module, start: Start, steps: int, guidance: float = 1.0) -> Iterator[Moment]:
        """Follows consistency sampling, see :class:`~immiscible.tasks.base.PublishedTask`.

        The datum is what the consistency function gives, which is where a path ends and not the mean of all data that
        a point may come from.
        """
        predict, moments, most = guided(network, start.labels, guidance), [], self.config.data_scale

        def follow(scaled: Tensor, t: Tensor) -> Tensor:
            output = predict(scaled, t / TIME_SCALE)
            sigma = (4 * t / TIME_SCALE).exp()
            x = scaled * per_row((sigma**2 + self.config.sigma_data**2).sqrt(), scaled)
            datum = denoised(lambda *_: output, x, sigma, self.config)
            datum = datum.clamp(-1, 1) if most == 1 else datum
            noise = (x - datum) / per_row(sigma, x)
            moments.append(Moment(Level(1.0, sigma[0].item()), x, noise, datum))
            return output

        Multistep(steps)(follow, make_scheduler(self.config), start, self._second_level)
        return iter(moments)

    def preview(self, network: nn.Module) -> Tensor:
        """A few samples, see :func:`~immiscible.tasks.base.preview`."""
        # A second step adds fresh noise, which is normal.
        sampler = PREVIEW_SAMPLER if isinstance(self.law, Normal) else PREVIEW_OF_INFORMED
        return preview(self, network, self.config.seed, sampler)

    def pipeline(self, method: str) -> Any:
        """The pipeline of diffusers with the network, which knows classes.

        Raises:
            InputError: If it would not draw what the run draws.
        """
        from diffusers.pipelines.consistency_models.pipeline_consistency_models import ConsistencyModelPipeline

        unet = unet_for_export(self)
        if self.shape[1] != self.shape[2]:
            raise InputError(
                f"export needs square images for consistency models, got {self.shape[1]} x {self.shape[2]}."
            )
        return ConsistencyModelPipeline(unet, make_scheduler(self.config))

    def pipeline_call(self, pipeline: str) -> str:
        """The arguments that the pipeline is called with, for one step and for two."""
        two = f"pipeline(batch_size=16, num_inference_steps=None, timesteps={two_steps(make_scheduler(self.config))}"
        return f"num_inference_steps=1)  # one step; for two: {two}"


def make_scheduler(config: ConsistencyConfig) -> CMStochasticIterativeScheduler:
    """A fresh scheduler of diffusers with the levels of a configuration. Images of scaled data are not clipped."""
    return CMStochasticIterativeScheduler(
        sigma_min=config.sigma_min,
        sigma_max=config.sigma_max,
        sigma_data=config.sigma_data,
        rho=config.rho,
        clip_denoised=config.data_scale == 1,
    )


def denoised(predict: Predict, x: Tensor, sigma: Tensor, config: ConsistencyConfig) -> Tensor:
    r"""The consistency function :math:`f(x, \sigma)` of points with shape (B, \*) at levels with shape (B,)."""
    data = config.sigma_data
    root = (sigma**2 + data**2).sqrt()
    above = sigma - config.sigma_min
    skip, out = data**2 / (above**2 + data**2), above * data / root
    output = predict(x / per_row(root, x), sigma.log() / 4)
    return per_row(skip, x) * x + per_row(out, x) * output


def level_count(step: int, config: ConsistencyConfig) -> int:
    """The number of intervals between noise levels at a step: it doubles at even distances (iCT, section 3.4)."""
    doublings = math.floor(math.log2(config.most_levels / config.levels))
    every = max(1, (config.curriculum or config.steps) // (doublings + 1))
    return min(config.levels * 2 ** min(step // every, doublings), config.most_levels)


def karras_levels(count: int, config: ConsistencyConfig) -> Tensor:
    """Noise levels, ascending from the smallest to the largest (arXiv 2206.00364, equation 5), with shape (count,)."""
    low, high = config.sigma_min ** (1 / config.rho), config.sigma_max ** (1 / config.rho)
    return torch.linspace(low, high, count, dtype=torch.float64).pow(config.rho).float()


def level_weights(levels: Tensor, config: ConsistencyConfig) -> Tensor:
    """How likely each interval between levels is trained on: a lognormal's mass in it (iCT, section 3.5)."""
    at = ((levels.double().log() - config.time_mean) / (math.sqrt(2) * config.time_std)).erf()
    return at.diff().float()
