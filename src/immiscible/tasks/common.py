"""What the tasks share: where samples start, labels that are dropped, guidance, and sampling in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from immiscible.networks import build
from immiscible.samplers import AnySampler, Samples, Start
from immiscible.training.config import RunConfig
from immiscible.training.loop import Task
from immiscible.training.randomness import derive, generator

Shape = tuple[int, int, int]
Predict = Callable[[Tensor, Tensor], Tensor]
S = TypeVar("S", contravariant=True)

PREVIEW = 36
# Images sampled at once; bounds the memory of large sample sets.
SAMPLE_BATCH = 1024


class ImageTask(Task, Protocol):
    """A task of this package: what the loop needs, and a way to sample."""

    def sample(self, network: nn.Module, start: Start, sampler: AnySampler, guidance: float = 1.0) -> Samples:
        """Draws one image for each noise, in the range of the data.

        Arguments:
            network: The network, usually the moving average of the weights.
            start: Where to start.
            sampler: How to sample; one of the task's own.
            guidance: The weight of classifier-free guidance; 1 is none.
        """
        ...


def initial_network(config: RunConfig, shape: Shape, classes: int) -> nn.Module:
    """Builds the network; its initial weights depend on the seed and the architecture only."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(config.seed, "weights"))
        return build(config, shape, classes)


def draw_start(
    shape: Shape, count: int, classes: int, seed: int, device: torch.device | str, scale: float = 1.0
) -> Start:
    """Where to start samples of a shape (C, H, W), with the classes in turn where there are classes.

    Arguments:
        shape: The shape of an image.
        count: How many images.
        classes: The number of classes, 0 for none.
        seed: Image i depends on the seed and on i only, however many are drawn.
        device: Where to sample.
        scale: The standard deviation of the noise. Other than 1 it is a control for couplings that shrink the noise.
    """
    noise = torch.stack([torch.randn(shape, generator=generator("cpu", seed, "sample", i)) for i in range(count)])
    labels = torch.arange(count, device=device) % classes if classes else None
    return Start(noise.mul_(scale).to(device), labels, [derive(seed, "sample-step", i) for i in range(count)])


def preview(task: ImageTask, network: nn.Module, shape: Shape, seed: int, sampler: AnySampler) -> Tensor:
    """Samples from the same noise every time; each row has the classes in turn where there are classes."""
    start = draw_start(shape, PREVIEW, task.classes, seed, next(network.parameters()).device)
    return task.sample(network, start, sampler).images


def drop_labels(labels: Tensor | None, classes: int, share: float, draws: torch.Generator) -> Tensor | None:
    """Labels of which a share is replaced by "no class", for guidance; None for an unconditional network."""
    if labels is None or not classes:
        return None
    dropped = torch.rand(labels.shape, generator=draws, device=labels.device) < share
    return labels.masked_fill(dropped, classes)


def guided(network: nn.Module, labels: Tensor | None, guidance: float) -> Predict:
    """The network's prediction with classifier-free guidance (arXiv 2207.12598), as a function of points and times."""
    if labels is None or guidance == 1:
        return lambda x, t: network(x, t, labels)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        with_class, without = network(x, t, labels), network(x, t, None)
        return without + guidance * (with_class - without)

    return predict


@torch.no_grad()
def in_parts(network: nn.Module, start: Start, draw: Callable[[Start], Samples], scale: float) -> Samples:
    """Samples some images at a time, with the network in evaluation mode, and divides them by the data's scale."""
    training = network.training
    network.eval()
    parts = [draw(start[first : first + SAMPLE_BATCH]) for first in range(0, len(start), SAMPLE_BATCH)]
    network.train(training)
    images = torch.cat([part.images for part in parts])
    return Samples(images if scale == 1 else images / scale, max(part.nfe for part in parts))
