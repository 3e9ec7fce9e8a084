"""Flow matching (arXiv 2210.02747): train a velocity network on paired noise, sample by solving its flow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from immiscible.config.recipes import FlowConfig
from immiscible.processes import flow, shifted_time, weighted_mse
from immiscible.samplers import Level, Moment, Sampler, Samples, Solver, walk
from immiscible.samplers.base import Start
from immiscible.samplers.flow import euler_times
from immiscible.tasks.base import Facts, Paths, PixelTask, drop_labels, guided, in_parts, initial_network, preview
from immiscible.training.task import Batch

PREVIEW_SAMPLER = Solver("euler", 20)


@dataclass(frozen=True)
class FlowTask(PixelTask):
    """Flow matching as the training loop sees it."""

    config: FlowConfig
    paths: ClassVar[Paths] = "smooth"

    @staticmethod
    def build(config: FlowConfig, facts: Facts) -> FlowTask:
        """Builds the network and all else."""
        return FlowTask(config, initial_network(config, facts), facts.shape, facts.classes)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The flow-matching loss at uniform times, or at shifted ones."""
        t = torch.rand(len(batch.x), generator=batch.generator, device=batch.x.device)
        t = shifted_time(t, self.config.schedule_shift)
        example = flow(batch.x, batch.noise, t)
        labels = drop_labels(batch.condition, self.classes, self.config.label_dropout, batch.generator)
        return weighted_mse(network(example.x_t, t, labels), example)

    def sample(self, network: nn.Module, start: Start, sampler: Sampler, guidance: float = 1.0) -> Samples:
        """Solves the flow, see :class:`~immiscible.tasks.base.PublishedTask`."""
        solver = cast(Solver, sampler)

        def draw(part: Start) -> Samples:
            points = part.mixed(part.time * self.config.data_scale, 1 - part.time)
            return solver(guided(network, part.labels, guidance), points, self.config.schedule_shift, part.time)

        return in_parts(network, start, draw, self.config.data_scale, self.at_once)

    def trace(self, network: nn.Module, start: Start, steps: int, guidance: float = 1.0) -> Iterator[Moment]:
        """Follows Euler's steps, see :class:`~immiscible.tasks.base.PublishedTask`."""
        predict = guided(network, start.labels, guidance)
        times = euler_times(steps, self.config.schedule_shift)[:-1]

        def guess(x: Tensor, step: int) -> tuple[Tensor, Tensor]:
            t = times[step]
            velocity = predict(x, torch.full((len(x),), t, dtype=x.dtype, device=x.device))
            return x - t * velocity, x + (1 - t) * velocity

        return walk(guess, start.noise, [Level(t, 1 - t) for t in times])

    def preview(self, network: nn.Module) -> Tensor:
        """A few samples, see :func:`~immiscible.tasks.base.preview`."""
        return preview(self, network, self.config.seed, PREVIEW_SAMPLER)
