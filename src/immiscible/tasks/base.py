"""What a published system is to the rest of the package, and what the systems share.

A system is a class. Of the class one asks what needs no network: its data, what tells its runs apart, what is to be
said of them. Of an instance one asks for the loss, the samples and the previews. :class:`ImageTask` answers for systems
that draw images, and each system overrides what is different with it, so that nobody else has to ask which one it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn

from immiscible.config.groups import DataFields, ImageConfig
from immiscible.couplings.source import NORMAL, Normal, Source
from immiscible.couplings.spaces import reads_condition
from immiscible.data import Images, read
from immiscible.data.shards import Head
from immiscible.errors import InputError
from immiscible.io.png import write_grid
from immiscible.networks import UNet, build
from immiscible.samplers import Moment, Sampler, Samples, Start
from immiscible.samplers.base import check_finite
from immiscible.seeds import derive, generator, seed_all
from immiscible.training.sources import PixelSource, PointSource
from immiscible.training.streams import sourced
from immiscible.training.task import Task

# Of a datum: (C, H, W) of an image, (T, A) of a chunk of actions, as the system's row says.
Shape = tuple[int, ...]
Predict = Callable[[Tensor, Tensor], Tensor]
# Ways from noise to data: smooth ones solve an equation, so that more steps come closer to one answer; on noisy ones
# fresh noise is added; none can be followed.
Paths = Literal["smooth", "noisy", "none"]

T = TypeVar("T")
P = TypeVar("P", bound="PixelTask")

PREVIEW = 36
# Fewer members of a class than these in a pairing leave an assignment within classes little to choose from.
FEW_OF_A_CLASS = 8
BY_CLASS = (
    "the assignment ranks images by their class, in the space {}, and moves noise across classes; the leak says how "
    "much it tells of them. With another --cost-space it works within classes."
)
WITHIN_CLASSES = "the assignment works within classes, so that the noise of each class keeps its law."
# Images sampled at once, and the pixels of all of them; both bound the memory of large sample sets.
SAMPLE_BATCH = 1024
PIXELS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Facts:
    """What a task has to know of its data.

    Attributes:
        shape: The shape of a datum, (C, H, W) of an image.
        classes: The number of classes, 0 for none.
        prompts: Captions of some of the data, which samples are drawn for.
    """

    shape: Shape
    classes: int = 0
    prompts: tuple[str, ...] = ()


class Data(Protocol):
    """What a run is trained on, as far as the runs know of it."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a datum."""
        ...

    @property
    def classes(self) -> int:
        """The number of classes, 0 for none."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """What they are called."""
        ...

    @property
    def skipped(self) -> Mapping[str, int]:
        """How many were passed over, by the reason."""
        ...

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """What tells it from other data."""
        ...


class PublishedTask(Task, Protocol):
    """A system as the runs see it: what the loop needs, a way to sample, and all that differs between systems."""

    needs: ClassVar[tuple[str, ...]]
    """What ``config.json`` must hold besides what all runs have."""

    unit: ClassVar[str]
    """What its data are, in the plural."""

    @classmethod
    def load_data(cls, config: Any) -> Data:
        """Loads the data that a configuration names."""
        ...

    @classmethod
    def found(cls, config: Any, data: Any) -> str:
        """How many data there are, and of what kind, in a few words."""
        ...

    @classmethod
    def check_data(cls, config: Any, data: Any) -> None:
        """Checks data that no run has been trained on yet."""
        ...

    @classmethod
    def facts_of(cls, config: Any, data: Any) -> Facts:
        """What it has to know of its data.

        Raises:
            InputError: If conditions are asked for that the data does not have.
        """
        ...

    @classmethod
    def known_facts(cls, config: Any, shape: Shape, classes: int, prompts: tuple[str, ...] = ()) -> Facts:
        """The same of data that is not loaded, by what is known of it."""
        ...

    @classmethod
    def identity(cls, config: Any) -> dict[str, Any]:
        """What tells its runs from others, apart from data and configuration; it is kept in ``config.json``."""
        ...

    @classmethod
    def check_identity(cls, config: Any, run: Path, saved: Mapping[str, Any]) -> None:
        """Checks that what a run was trained on, apart from its data, is still what it was.

        Raises:
            InputError: If it is not.
        """
        ...

    @classmethod
    def places(cls, config: Any) -> dict[str, str]:
        """Where that lies, by the names of fields, so that it is found from any directory."""
        ...

    @classmethod
    def network_name(cls, config: Any) -> str:
        """What its network is called before a run."""
        ...

    @classmethod
    def caption(cls, config: Any, data: Any) -> str | None:
        """The first caption of the data as it is trained on, or none."""
        ...

    @classmethod
    def notes(cls, config: Any, classes: int, grouped: bool, together: int) -> list[str]:
        """What its conditions do to an assignment, in lines.

        Arguments:
            config: The configuration.
            classes: The number of classes that the network is conditioned on.
            grouped: Whether the coupling keeps noise within classes.
            together: The number of data that are paired together.
        """
        ...

    @classmethod
    def build(cls, config: Any, facts: Facts) -> PublishedTask:
        """Builds the network and all else."""
        ...

    @property
    def classes(self) -> int:
        """The number of classes that the network is conditioned on, 0 for none."""
        ...

    @property
    def grouped(self) -> bool:
        """Whether the coupling keeps noise within classes."""
        ...

    @property
    def guidance(self) -> float:
        """The weight of guidance that samples are drawn with unless another is asked for; 1 is none."""
        ...

    @property
    def guidable(self) -> bool:
        """Whether samples can be guided."""
        ...

    def source(self, data: Any, device: torch.device) -> PointSource:
        """The data as the loop draws it, on a device."""
        ...

    def keep(self, out: Path) -> None:
        """Writes beside a run what else it needs to be sampled from."""
        ...

    @property
    def at_once(self) -> int:
        """How many images are sampled at once; more are sampled in parts."""
        ...

    informed: ClassVar[bool]
    """Whether samples can start from another law than N(0, I)."""

    @property
    def law(self) -> Source:
        """The law that samples start from."""
        ...

    def starting(self, law: Source) -> PublishedTask:
        """The same where samples start from a law.

        Raises:
            InputError: If it is not N(0, I), and they cannot.
        """
        ...

    def start(self, count: int, seed: int, scale: float = 1.0, first: int = 0, labels: Tensor | None = None) -> Start:
        """Where to start that many samples, on the device of the network, see :func:`draw_start`.

        Arguments:
            count: How many.
            seed: The seed of the starting noise.
            scale: Its standard deviation before it is noise of the law.
            first: The number of the first of them.
            labels: The class of each, with shape (count,), where they are not in turn.
        """
        ...

    def sample(self, network: nn.Module, start: Start, sampler: Sampler, guidance: float = 1.0) -> Samples:
        """Draws one image for each noise, in the range of the data.

        Arguments:
            network: The network, usually with the moving average of the weights.
            start: Where to start.
            sampler: How to sample; one of the task's own.
            guidance: The weight of classifier-free guidance; 1 is none.
        """
        ...

    paths: ClassVar[Paths]
    """Whether its way from noise to data can be followed with :meth:`trace`, and whether fresh noise comes in on it."""

    def trace(self, network: nn.Module, start: Start, steps: int, guidance: float = 1.0) -> Iterator[Moment]:
        """Follows samples from noise to data, by the first of the system's sampling methods.

        Arguments:
            network: The network, in evaluation mode.
            start: Where to start; all of it is followed at once.
            steps: The number of steps, each one network call; of the last the datum is the sample.
            guidance: The weight of classifier-free guidance; 1 is none.

        Raises:
            InputError: If the system has no paths, or fewer steps.
        """
        ...

    def decode(self, x: Tensor) -> Tensor:
        r"""What is diffused, with shape (B, \*), as images in [-1, 1]."""
        ...


class PlainTask:
    """What a system does unless it says otherwise."""

    needs: ClassVar[tuple[str, ...]] = ()
    unit: ClassVar[str] = "data"
    paths: ClassVar[Paths] = "none"
    informed: ClassVar[bool] = False
    law: Source = NORMAL
    preview_file: ClassVar[str] = "samples/step-{step}.png"

    @classmethod
    def found(cls, config: Any, data: Any) -> str:
        """How many there are."""
        return f"{len(data)} {cls.unit}"

    @classmethod
    def check_data(cls, config: Any, data: Any) -> None:
        """Takes any data."""

    @classmethod
    def identity(cls, config: Any) -> dict[str, Any]:
        """Nothing: configuration and data tell its runs apart."""
        return {}

    @classmethod
    def check_identity(cls, config: Any, run: Path, saved: Mapping[str, Any]) -> None:
        """Finds nothing wrong."""

    @classmethod
    def places(cls, config: Any) -> dict[str, str]:
        """Nothing: it needs the data only."""
        return {}

    @classmethod
    def caption(cls, config: Any, data: Any) -> str | None:
        """There are no captions."""
        return None

    @property
    def guidance(self) -> float:
        """No guidance."""
        return 1.0

    def keep(self, out: Path) -> None:
        """Writes nothing: weights and configuration are enough."""

    def starting(self: T, law: Source) -> T:
        """The same: samples start from N(0, I)."""
        if not isinstance(law, Normal):
            raise InputError(f"samples of {type(self).__name__} must start from N(0, I), got {law}.")
        return self

    def trace(self, network: nn.Module, start: Start, steps: int, guidance: float = 1.0) -> Iterator[Moment]:
        """There are no paths to follow."""
        raise InputError(f"paths can be followed where a system has `trace`, got {type(self).__name__} without.")


class ImageTask(PlainTask):
    """What a system that draws images does unless it says otherwise."""

    unit: ClassVar[str] = "images"

    @classmethod
    def load_data(cls, config: Any) -> Images:
        """Loads the data in the size that the configuration asks for."""
        return load_pixels(config, config.image_size)

    @classmethod
    def found(cls, config: Any, data: Images) -> str:
        """How many there are; of a stream, in its head."""
        return f"{len(data)} images{' of the head of a stream' if isinstance(data, Head) else ''}"

    @classmethod
    def caption(cls, config: Any, data: Images) -> str | None:
        """The first caption, where there are captions."""
        return data.captions[0] if data.captions else None

    def preview(self, network: nn.Module) -> Tensor:
        """A few samples, always from the same noise, with shape (B, C, H, W) in [-1, 1]."""
        raise NotImplementedError

    def write_preview(self, network: nn.Module, out: Path | None) -> None:
        """Writes a grid of samples, see :class:`immiscible.training.loop.Task`."""
        images = self.preview(network)
        if out is not None:
            write_grid(out, images)


@dataclass(frozen=True)
class PixelTask(ImageTask):
    """What the tasks on pixels have in common. Each adds its loss and its sampling.

    Attributes:
        config: The configuration of a run.
        network: The network.
        shape: The shape of an image.
        classes: The number of classes that the network is conditioned on, 0 for none.
        law: The law that samples start from.
    """

    informed: ClassVar[bool] = True

    config: ImageConfig
    network: nn.Module
    shape: Shape
    classes: int
    law: Source = field(default=NORMAL, kw_only=True)

    @classmethod
    def facts_of(cls, config: ImageConfig, data: Images) -> Facts:
        """The shape of the images, and the classes where the network is conditioned on them."""
        if config.conditional and not data.classes:
            raise InputError(
                f"--conditional needs labelled data, got {data.name} without labels: use class sub-folders, or "
                "--class-count for a stream of integer labels."
            )
        return cls.known_facts(config, data.shape, data.classes)

    @classmethod
    def known_facts(cls, config: ImageConfig, shape: Shape, classes: int, prompts: tuple[str, ...] = ()) -> Facts:
        """The same of data that is not loaded."""
        return Facts(shape, classes if config.conditional else 0, prompts)

    @classmethod
    def network_name(cls, config: ImageConfig) -> str:
        """The kind of network."""
        return config.network

    @classmethod
    def notes(cls, config: ImageConfig, classes: int, grouped: bool, together: int) -> list[str]:
        """What classes do to an assignment."""
        if not classes:
            return []
        if reads_condition(config.cost_space):
            return [BY_CLASS.format(config.cost_space)]
        if config.across_classes:
            return [
                "warning: the assignment moves noise between classes, so the noise of a class is no longer N(0, I) "
                "while sampling a class starts from N(0, I): this conditional prior skew is known to worsen "
                "conditional models."
            ]
        lines, members = [WITHIN_CLASSES], together / classes
        if members < FEW_OF_A_CLASS:
            lines.append(
                f"warning: a pairing holds about {members:.1f} images of each class, and with fewer than "
                f"{FEW_OF_A_CLASS} the assignment has little to choose from: pair more at once with --pool, or take "
                "knn:4, which needs none."
            )
        return lines

    @property
    def guidable(self) -> bool:
        """Whether there are classes to guide towards."""
        return self.classes > 0

    @property
    def grouped(self) -> bool:
        """Whether the coupling keeps noise within classes: not where it ranks across them by their classes."""
        return self.classes > 0 and not self.config.across_classes and not reads_condition(self.config.cost_space)

    def source(self, data: Images, device: torch.device) -> PointSource:
        """The data as the loop draws it."""
        config, conditional, grouped = self.config, self.classes > 0, self.grouped
        ranked_by = self.classes if reads_condition(config.cost_space) else 0
        return sourced(
            data, config, lambda images: PixelSource(images, config, device, conditional, grouped, ranked_by)
        )

    @property
    def at_once(self) -> int:
        """How many images are sampled at once."""
        return images_at_once(self.shape)

    def decode(self, x: Tensor) -> Tensor:
        """Divides by the scale of the data."""
        return x if self.config.data_scale == 1 else x / self.config.data_scale

    def starting(self: P, law: Source) -> P:
        """The same where samples start from a law."""
        return dataclasses.replace(self, law=law)

    def start(self, count: int, seed: int, scale: float = 1.0, first: int = 0, labels: Tensor | None = None) -> Start:
        """Noise to sample from, with the classes in turn unless they are given, see :func:`draw_start`."""
        device = next(self.network.parameters()).device
        start = draw_start(self.shape, range(first, first + count), self.classes, seed, device, scale)
        if labels is not None:
            start = dataclasses.replace(start, labels=labels.to(device))
        return start.under(self.law)


def unet_for_export(task: PixelTask) -> Any:
    """The U-Net of diffusers within a task's network, where the pipelines of diffusers can say what it was trained to.

    Raises:
        InputError: If they cannot: they know no MLP, and do not divide samples by the scale of the data.
    """
    if not isinstance(task.network, UNet):
        raise InputError(f"export needs a U-Net, got a run with the {task.config.network}: train with --network unet.")
    if task.config.data_scale != 1:
        raise InputError(
            f"export needs --data-scale 1, got {task.config.data_scale}: the pipelines of diffusers do not divide "
            "samples; train with --schedule-shift instead."
        )
    return task.network.inner


def load_pixels(config: DataFields, image_size: int | None) -> Images:
    """Loads the data that a configuration names, in a size."""
    return read(config.data, dataclasses.replace(config, image_size=image_size))


def initial_network(config: ImageConfig, facts: Facts) -> nn.Module:
    """Builds the network; its initial weights depend on the seed and the architecture only."""
    with torch.random.fork_rng():
        seed_all(derive(config.seed, "weights"))
        return build(config, facts.shape, facts.classes)


def draw_start(
    shape: Shape, numbers: range | int, classes: int, seed: int, device: torch.device | str, scale: float = 1.0
) -> Start:
    """Where to start samples of a shape (C, H, W), with the classes in turn where there are classes.

    Arguments:
        shape: The shape of a sample.
        numbers: The numbers of the samples, or how many there are from number 0 on.
        classes: The number of classes, 0 for none.
        seed: Sample i depends on the seed and on i only, however many are drawn.
        device: Where to sample.
        scale: The standard deviation of the noise. Other than 1 it is a control for couplings that shrink the noise.
    """
    numbers = range(numbers) if isinstance(numbers, int) else numbers
    noise = torch.stack([torch.randn(shape, generator=generator("cpu", seed, "sample", i)) for i in numbers])
    labels = torch.arange(numbers.start, numbers.stop, device=device) % classes if classes else None
    return Start(noise.mul_(scale).to(device), labels, [derive(seed, "sample-step", i) for i in numbers])


def preview(task: PublishedTask, network: nn.Module, seed: int, sampler: Sampler, guidance: float = 1.0) -> Tensor:
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
