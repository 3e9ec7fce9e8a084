"""A trained network that is measured, with the sampler that it is measured with.

All subjects start from the same noise, which depends on the seed and on the number of the sample only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from immiscible.config.systems import System
from immiscible.errors import InputError
from immiscible.samplers import Moment, Sampler, Start, parse_samplers
from immiscible.samplers.base import check_finite
from immiscible.tasks.base import PublishedTask

# Apart from the seeds of training, so that nothing is measured on noise that was trained on.
SEED = 20_000
# Paths that are followed at once: what is kept of all steps of a path is in memory.
AT_ONCE = 64
# What is followed where a system has no method that chooses its own steps.
MANY_STEPS = 200


class NotApplicable(InputError):
    """A measurement that a system cannot take part in."""


@dataclass(frozen=True)
class Subject:
    """A trained network that is measured.

    Attributes:
        name: What it is called beside the others.
        task: Its task, with the network in evaluation mode.
        row: Its system.
        sampler: How its samples are drawn.
        guidance: The weight of guidance that they are drawn with; 1 is none.
        scale: What the data is multiplied by before noise is added.
    """

    name: str
    task: PublishedTask
    row: System
    sampler: Sampler
    guidance: float = 1.0
    scale: float = 1.0

    @property
    def steps(self) -> int:
        """The network calls of a sample, as asked for."""
        return int(str(self.sampler))

    def start(self, count: int, seed: int = SEED) -> Start:
        """Where that many samples start."""
        return self.task.start(count, seed)

    def draw(self, start: Start) -> Tensor:
        """Samples, on the CPU, with shape (N, C, H, W)."""
        return self._draw(start, self.sampler)

    def _draw(self, start: Start, sampler: Sampler) -> Tensor:
        size = self.task.at_once
        parts = (start[first : first + size] for first in range(0, len(start), size))
        network, guidance = self.task.network, self.guidance
        return torch.cat([self.task.sample(network, part, sampler, guidance).images.cpu() for part in parts])

    def follow(self, start: Start, steps: int, at_once: int = AT_ONCE) -> Iterator[Iterator[Moment]]:
        """The paths of some samples, part by part.

        Arguments:
            start: Where they start.
            steps: The number of steps.
            at_once: How many paths are followed at once, fewer where the system takes fewer.

        Raises:
            NotApplicable: If the system has no paths.
        """
        if self.task.paths == "none":
            raise NotApplicable(f"{self.row.title} has no paths that could be followed")
        size = min(at_once, self.task.at_once)
        for first in range(0, len(start), size):
            yield self.task.trace(self.task.network, start[first : first + size], steps, self.guidance)

    def ends(self, start: Start, steps: int) -> Tensor:
        """Where paths of some steps end, as it is diffused, on the CPU with the shape of the noise."""
        ends = []
        for moments in self.follow(start, steps):
            *_, last = moments
            ends.append(last.datum.cpu())
        return check_finite(torch.cat(ends))

    def decode(self, x: Tensor) -> Tensor:
        """What is diffused as images in [-1, 1], on the CPU."""
        size, device = self.task.at_once, next(self.task.network.parameters()).device
        return torch.cat([self.task.decode(part.to(device)).cpu() for part in x.split(size)])

    def solve(self, start: Start) -> Tensor:
        """Samples as exact as can be: by the method that chooses its own steps, else by very many.

        Raises:
            NotApplicable: If more steps do not come closer to one answer.
        """
        self.check_smooth()
        if self.row.numberless:
            return self._draw(start, parse_samplers(self.row.name, self.row.numberless[0])[0])
        return self.decode(self.ends(start, MANY_STEPS))

    def check_smooth(self) -> None:
        """Checks that its paths solve an equation.

        Raises:
            NotApplicable: If they do not.
        """
        if self.task.paths == "noisy":
            raise NotApplicable(f"the sampler of {self.row.title} adds fresh noise on its way")
        if self.task.paths == "none":
            raise NotApplicable(f"{self.row.title} has no paths that could be followed")
