"""What a run is trained on, as the loop sees it: batches as they are diffused, drawn by their indices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from immiscible.config.groups import ImageRun
from immiscible.data import Images
from immiscible.data.augment import augment
from immiscible.seeds import generator

Position = tuple[int, int, int]


@dataclass(frozen=True)
class Drawn:
    r"""The data of a micro-batch.

    Attributes:
        x: The data as they are diffused, ``float32`` with shape (B, \*).
        condition: What the network is conditioned on, with B rows, or None.
        groups: The group of each, with shape (B,), that the coupling must keep noise within, or None.
        embedded: The condition as numbers, with shape (B, \*), where it is none and data are ranked by it.
    """

    x: Tensor
    condition: Tensor | None = None
    groups: Tensor | None = None
    embedded: Tensor | None = None

    @property
    def ranked_by(self) -> Tensor | None:
        """The condition as spaces see it."""
        return self.condition if self.embedded is None else self.embedded

    def to(self, device: torch.device) -> Drawn:
        """The same on a device."""
        parts = self.condition, self.groups, self.embedded
        return Drawn(self.x.to(device), *(None if part is None else part.to(device) for part in parts))


class Source(Protocol):
    """Where the data of a run come from."""

    def __len__(self) -> int: ...

    def draw(self, indices: Tensor, position: Position) -> Drawn:
        """The data with some indices, on the device.

        Arguments:
            indices: Which ones, with shape (B,).
            position: The step, the micro-batch and the rank that all randomness is derived from.
        """
        ...


@runtime_checkable
class Sequential(Source, Protocol):
    """A source with an order of its own, that is drawn from micro-batch by micro-batch.

    Of the indices it takes the number only. Micro-batches are numbered through all steps, on each rank alike.
    """

    def state_at(self, flat: int) -> dict[str, Any]:
        """What to go on with at a micro-batch, at the latest the next one, as JSON values; forgets what is before."""
        ...

    def seek(self, flat: int, state: dict[str, Any]) -> None:
        """Makes a micro-batch the next one, by the state that a source gave for it.

        Arguments:
            flat: The number of the micro-batch.
            state: What :meth:`state_at` gave for it, on the same rank of as many.
        """
        ...


class Points(Protocol):
    """Data as they are diffused, up to a factor, without augmentation: what rankings and drifts are measured on."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one: (D,) of vectors, (T, D) of sequences, (C, H, W) of images, or any other."""
        ...

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        r"""Some of them with shape (B, \*), and their groups with shape (B,), or None."""
        ...

    def mean(self) -> Tensor:
        """Their mean, with the shape of one."""
        ...


@runtime_checkable
class ConditionedPoints(Points, Protocol):
    """Points with a continuous condition."""

    def condition(self, index: Tensor) -> Tensor:
        r"""The condition of some of them, with shape (B, \*)."""
        ...


def condition_of(points: Points, index: Tensor) -> Tensor | None:
    r"""The condition of some points, with shape (B, \*), or None where they have none."""
    return points.condition(index) if isinstance(points, ConditionedPoints) else None


class PointSource(Source, Protocol):
    """A source that also gives what rankings and drifts are measured on."""

    def points(self) -> Points:
        """The data, or enough of them, on the CPU."""
        ...


def placed(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; the host waits for the copy only where the memory is not pinned."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def augmented(x: Tensor, config: ImageRun, position: Position) -> Tensor:
    """Images, changed at random as a configuration says.

    Arguments:
        x: The images, with shape (B, C, H, W).
        config: The configuration of the run.
        position: The step, the micro-batch and the rank that all randomness is derived from.
    """
    draws = generator(x.device, config.seed, "augment", *position)
    return augment(x, flip=config.flip, shift=config.shift, generator=draws)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Classes as numbers, a one in the place of each, ``float32`` with shape (B, K)."""
    return torch.nn.functional.one_hot(labels.long(), classes).float()


@dataclass(frozen=True)
class ClassPoints:
    """Images whose classes are conditions that they are ranked by.

    Attributes:
        images: The images, with labels.
        classes: How many classes there are.
    """

    images: Images
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one."""
        return self.images.shape

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Some of them, and their classes."""
        return self.images.batch(index)

    def mean(self) -> Tensor:
        """Their mean."""
        return self.images.mean()

    def condition(self, index: Tensor) -> Tensor:
        """The classes of some, see :func:`one_hot`."""
        labels = self.images.labels
        assert labels is not None
        return one_hot(labels[index], self.classes)


@dataclass(frozen=True)
class PixelSource:
    """Images, scaled, with their classes where the network is conditioned on them.

    Arguments:
        images: The images.
        config: How they are augmented and scaled.
        device: Where to put them.
        conditional: Whether the network is conditioned on their classes.
        grouped: Whether the coupling keeps noise within classes.
        ranked_by: The number of classes where data are ranked by theirs, 0 where they are not.
    """

    images: Images
    config: ImageRun
    device: torch.device
    conditional: bool = False
    grouped: bool = False
    ranked_by: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def bytes_of(self, count: int) -> int:
        """How many bytes that many images are."""
        return 4 * count * math.prod(self.images.shape)

    def fetch(self, indices: Tensor, position: Position) -> tuple[Tensor, ...]:
        """Some images, and their labels where they have any; nothing is left to chance here."""
        x, labels = self.images.batch(indices)
        return (x,) if labels is None else (x, labels)

    def place(self, fetched: tuple[Tensor, ...], position: Position) -> Drawn:
        """The images on the device, augmented and scaled."""
        x, *labels = (placed(part, self.device) for part in fetched)
        x = augmented(x, self.config, position)
        x = x if self.config.data_scale == 1 else x * self.config.data_scale
        labels = labels[0] if labels else None
        # An unconditional network must not be given noise that was paired by class.
        embedded = None if labels is None or not self.ranked_by else one_hot(labels, self.ranked_by)
        return Drawn(x, labels if self.conditional else None, labels if self.grouped else None, embedded)

    def draw(self, indices: Tensor, position: Position) -> Drawn:
        """Some images, see :class:`Source`."""
        return self.place(self.fetch(indices, position), position)

    def points(self) -> Points:
        """The images without their scale, with their classes as conditions where they are ranked by these."""
        return ClassPoints(self.images, self.ranked_by) if self.ranked_by else self.images
