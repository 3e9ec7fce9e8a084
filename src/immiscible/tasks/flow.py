"""Flow matching (arXiv 2210.02747): train a velocity network on paired noise, sample by solving its flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from immiscible.data import Images
from immiscible.errors import InputError
from immiscible.networks import build
from immiscible.processes import flow, weighted_mse
from immiscible.samplers import Samples, Solver, Velocity
from immiscible.training.config import FlowConfig
from immiscible.training.randomness import derive, generator

PREVIEW = 36
PREVIEW_SOLVER = Solver("euler", 20)
# Images sampled at once; bounds the memory of large sample sets.
SAMPLE_BATCH = 1024


@dataclass(frozen=True)
class FlowTask:
    """Flow matching as the training loop sees it."""

    network: nn.Module
    shape: tuple[int, int, int]
    classes: int
    label_dropout: float
    seed: int

    @staticmethod
    def build(config: FlowConfig, shape: tuple[int, int, int], classes: int) -> FlowTask:
        """Builds the network; its initial weights depend on the seed and the architecture only."""
        with torch.random.fork_rng():
            torch.manual_seed(derive(config.seed, "weights"))
            network = build(config.network, shape, config.width, config.depth, classes)
        return FlowTask(network, shape, classes, config.label_dropout, config.seed)

    def loss(
        self, network: nn.Module, x: Tensor, noise: Tensor, labels: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        """The flow-matching loss at uniform times, a scalar."""
        t = torch.rand(len(x), generator=generator, device=x.device)
        example = flow(x, noise, t)
        kept = self._drop_labels(labels, generator) if self.classes and labels is not None else None
        return weighted_mse(network(example.x_t, t, kept), example)

    def preview(self, network: nn.Module) -> Tensor:
        """Samples from the same noise every time; each row one class where there are classes."""
        noise, labels = start_noise(self.shape, PREVIEW, self.classes, self.seed, next(network.parameters()).device)
        return sample(network, noise, PREVIEW_SOLVER, labels=labels).images

    def _drop_labels(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        dropped = torch.rand(labels.shape, generator=generator, device=labels.device) < self.label_dropout
        return labels.masked_fill(dropped, self.classes)


def make_task(config: FlowConfig, data: Images) -> FlowTask:
    """Builds the task for the data.

    Raises:
        InputError: If class conditions are asked for and the data has no labels.
    """
    if config.conditional and not data.classes:
        raise InputError(f"--conditional needs labelled data, got {data.name} without labels: use class sub-folders.")
    return FlowTask.build(config, data.shape, data.classes if config.conditional else 0)


def start_noise(
    shape: tuple[int, int, int], count: int, classes: int, seed: int, device: torch.device | str
) -> tuple[Tensor, Tensor | None]:
    """Noise to sample from, with shape (count, C, H, W), and classes in turn, with shape (count,), or None.

    Image i depends on the seed and on i only, however many are drawn.
    """
    noise = torch.stack([torch.randn(shape, generator=generator("cpu", seed, "sample", i)) for i in range(count)])
    noise = noise.to(device)
    labels = torch.arange(count, device=device) % classes if classes else None
    return noise, labels


@torch.no_grad()
def sample(
    network: nn.Module, noise: Tensor, solver: Solver, *, labels: Tensor | None = None, guidance: float = 1.0
) -> Samples:
    """Draws one image for each noise.

    Arguments:
        network: The velocity network.
        noise: Standard normal noise, with shape (B, C, H, W).
        solver: How to solve the flow.
        labels: The class of each image, with shape (B,), or None.
        guidance: The weight of classifier-free guidance; 1 is none.
    """
    training = network.training
    network.eval()
    parts = []
    nfe = 0
    for start in range(0, len(noise), SAMPLE_BATCH):
        chosen = slice(start, start + SAMPLE_BATCH)
        velocity = _velocity(network, None if labels is None else labels[chosen], guidance)
        part = solver(velocity, noise[chosen])
        parts.append(part.images)
        nfe = max(nfe, part.nfe)
    network.train(training)
    return Samples(torch.cat(parts), nfe)


def _velocity(network: nn.Module, labels: Tensor | None, guidance: float) -> Velocity:
    if labels is None or guidance == 1:
        return lambda x, t: network(x, t, labels)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        with_class, without = network(x, t, labels), network(x, t, None)
        return without + guidance * (with_class - without)

    return guided
