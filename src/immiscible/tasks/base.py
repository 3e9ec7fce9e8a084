"""What the tasks share: where samples start, labels that are dropped, guidance, and sampling in parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from immiscible.config.recipes import ImageConfig
from immiscible.data import Images
from immiscible.networks import build
from immiscible.samplers import AnySampler, Samples, Start
from immiscible.samplers.base import check_finite
from immiscible.seeds import derive, generator, seed_all
from immiscible.training.loop import Task
from immiscible.training.sources import PixelSource, PointSource
from immiscible.training.streams import sourced

Shape = tuple[int, int, int]
Predict = Callable[[Tensor, Tensor], Tensor]

PREVIEW = 36
# Images sampled at once, and the pixels of all of them; both bound the memory of large sample sets.
SAMPLE_BATCH = 1024
PIXELS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Facts:
    """What a task has to know of its data.

    Attributes:
        shape: The shape (C, H, W) of an image.
        classes: The number of classes, 0 for none.
        prompts: Captions of some of the data, which samples are drawn for.
    """

    shape: Shape
    classes: int = 0
    prompts: tuple[str, ...] = ()


class PublishedTask(Task, Protocol):
    """A task of this package: what the loop needs, and a way to sample."""

    @property
    def classes(self) -> int:
        """The number of classes that the network is conditioned on, 0 for none."""
        ...

    @property
    def grouped(self) -> bool:
        """Whether the coupling keeps noise within classes."""
        ...

    def source(self, data: Images, device: torch.device) -> PointSource:
        """The data as the loop draws it, on a device."""
        ...

    @property
    def at_once(self) -> int:
        """How many images are sampled at once; more are sampled in parts."""
        ...

    def start(self, count: int, seed: int, scale: float = 1.0, first: int = 0) -> Start:
        """Where to start that many samples, on the device of the network, see :func:`draw_start`."""
        ...

    def sample(self, network: nn.Module, start: Start, sampler: AnySampler, guidance: float = 1.0) -> Samples:
        """Draws one image for each noise, in the range of the data.

        Arguments:
            network: The network, usually with the moving average of the weights.
            start: Where to start.
            sampler: How to sample; one of the task's own.
            guidance: The weight of classifier-free guidance; 1 is none.
        """
        ...


@dataclass(frozen=True)
class PixelTask:
    """What the tasks on pixels have in common. Each adds its loss and its sampling.

    Attributes:
        config: The configuration of a run.
        network: The network.
        shape: The shape of an image.
        classes: The number of classes that the network is conditioned on, 0 for none.
    """

    config: ImageConfig
    network: nn.Module
    shape: Shape
    classes: int

    @property
    def grouped(self) -> bool:
        """Whether the coupling keeps noise within classes."""
        return self.classes > 0 and not self.config.across_classes

    def source(self, data: Images, device: torch.device) -> PointSource:
        """The data as the loop draws it."""
        conditional, grouped = self.classes > 0, self.grouped
        return sourced(data, self.config, lambda images: PixelSource(images, self.config, device, conditional, grouped))

    @property
    def at_once(self) -> int:
        """How many images are sampled at once."""
        return images_at_once(self.shape)

    def start(self, count: int, seed: int, scale: float = 1.0, first: int = 0) -> Start:
        """Noise to sample from, with the classes in turn where there are classes, see :func:`draw_start`."""
        device = next(self.network.parameters()).device
        return draw_start(self.shape, count, self.classes, seed, device, scale, first)


def initial_network(config: ImageConfig, facts: Facts) -> nn.Module:
    """Builds the network; its initial weights depend on the seed and the architecture only."""
    with torch.random.fork_rng():
        seed_all(derive(config.seed, "weights"))
        return build(config, facts.shape, facts.classes)


def draw_start(
    shape: Shape, count: int, classes: int, seed: int, device: torch.device | str, scale: float = 1.0, first: int = 0
) -> Start:
    """Where to start samples of a shape (C, H, W), with the classes in turn where there are classes.

    Arguments:
        shape: The shape of a sample.
        count: How many.
        classes: The number of classes, 0 for none.
        seed: Sample i depends on the seed and on i only, however many are drawn.
        device: Where to sample.
        scale: The standard deviation of the noise. Other than 1 it is a control for couplings that shrink the noise.
        first: The number of the first sample.
    """
    numbers = range(first, first + count)
    noise = torch.stack([torch.randn(shape, generator=generator("cpu", seed, "sample", i)) for i in numbers])
    labels = torch.arange(first, first + count, device=device) % classes if classes else None
    return Start(noise.mul_(scale).to(device), labels, [derive(seed, "sample-step", i) for i in numbers])


def preview(task: PublishedTask, network: nn.Module, seed: int, sampler: AnySampler, guidance: float = 1.0) -> Tensor:
    """Samples from the same noise every time."""
    return task.sample(network, task.start(PREVIEW, seed), sampler, guidance).images


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


def images_at_once(shape: Shape, most: int | None = None) -> int:
    """How many images of a shape (C, H, W) are sampled at once: fewer where they are large."""
    return max(1, min(SAMPLE_BATCH if most is None else most, PIXELS_AT_ONCE // (shape[1] * shape[2])))


@torch.no_grad()
def in_parts(
    network: nn.Module, start: Start, draw: Callable[[Start], Samples], scale: float, batch_size: int
) -> Samples:
    """Samples some images at a time, with the network in evaluation mode, and divides them by the data's scale.

    Raises:
        NotFinite: If some are not finite.
    """
    training = network.training
    network.eval()
    parts = [draw(start[first : first + batch_size]) for first in range(0, len(start), batch_size)]
    network.train(training)
    images = check_finite(torch.cat([part.images for part in parts]))
    return Samples(images if scale == 1 else images / scale, max(part.nfe for part in parts))
