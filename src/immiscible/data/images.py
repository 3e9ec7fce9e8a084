"""A set of images, in memory or mapped into it: what every reader returns, and all that is known elsewhere of data.

Pixels stay as they came, ``uint8`` or ``float32``, since bytes take a quarter of the memory. Only a batch is converted,
to ``float32`` in :math:`[-1, 1]`: a byte ``v`` becomes ``v / 127.5 - 1``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from immiscible.errors import InputError

# Images that are summed, or resized, at once.
CHUNK = 256


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one size, with or without labels, on the CPU.

    Arguments:
        name: What messages and reports call the data.
        pixels: The images, with shape (N, C, H, W), ``uint8`` or ``float32`` in [-1, 1]. Not to be changed afterwards.
        labels: The class of each image, ``int64`` from 0 to ``classes - 1`` with shape (N,), or none.
        class_names: One name per class, empty without labels.
        captions: A text for each image, or none at all.
        digest: The fingerprint, where it is known already.
        known_mean: The mean image, where it is known already. It holds for as long as the digest does.
        skipped: How many things of the source are no images of these, by the reason in words: ``{"hidden files": 2}``.

    Raises:
        InputError: If one of these does not hold.

    Example:
        >>> data = Images("noise", torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8))
        >>> x, labels = data.batch([0, 5])
        >>> x.shape
        torch.Size([2, 3, 8, 8])
    """

    name: str
    pixels: Tensor
    labels: Tensor | None = None
    class_names: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    digest: str = ""
    skipped: Mapping[str, int] = field(default_factory=dict)
    known_mean: Tensor | None = None

    def __post_init__(self) -> None:
        self._check_pixels()
        self._check_labels()
        if self.captions and len(self.captions) != len(self):
            raise InputError(
                f"{self.name}: there must be a caption for each of the {len(self)} images, got {len(self.captions)}."
            )

    def _check_pixels(self) -> None:
        pixels = self.pixels
        if pixels.ndim != 4 or pixels.numel() == 0:
            raise InputError(
                f"{self.name}: images must have shape (N, C, H, W) with at least one pixel, got {tuple(pixels.shape)}."
            )
        if pixels.dtype not in (torch.uint8, torch.float32) or pixels.device.type != "cpu":
            raise InputError(
                f"{self.name}: images must be uint8 or float32 on the CPU, got {pixels.dtype} on {pixels.device}."
            )
        if pixels.dtype == torch.float32:
            low, high = pixels.aminmax()
            if not (low >= -1 and high <= 1):
                raise InputError(
                    f"{self.name}: float images must lie in [-1, 1], got values from {low:.4g} to {high:.4g}: "
                    "rescale them, or give 0..255 as uint8."
                )

    def _check_labels(self) -> None:
        labels = self.labels
        if labels is None:
            if self.class_names:
                raise InputError(f"{self.name}: class names must be empty without labels, got {len(self.class_names)}.")
            return
        if labels.shape != (len(self),) or labels.dtype != torch.int64:
            raise InputError(
                f"{self.name}: labels must be int64 with shape ({len(self)},), one per image, "
                f"got {labels.dtype} with shape {tuple(labels.shape)}."
            )
        low, high = labels.aminmax()
        if low < 0 or high >= self.classes:
            raise InputError(
                f"{self.name}: labels must lie in 0..{self.classes - 1}, one name per class, got {low} to {high}."
            )

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @property
    def classes(self) -> int:
        """The number of classes, 0 without labels."""
        return len(self.class_names)

    def batch(self, index: Tensor | list[int]) -> tuple[Tensor, Tensor | None]:
        """Some images, to train on or to look at.

        Arguments:
            index: Which ones, integers with shape (B,).

        Returns:
            The images as a fresh ``float32`` tensor in [-1, 1], with shape (B, C, H, W), and their labels, with
            shape (B,), or none.
        """
        index = torch.as_tensor(index, dtype=torch.int64)
        x = self.pixels[index]
        if x.dtype == torch.uint8:
            x = x.to(torch.float32).div_(127.5).sub_(1)
        return x, None if self.labels is None else self.labels[index]

    def in_colour(self) -> Images:
        """The same images with three channels; grey ones share the memory of one."""
        if self.shape[0] == 3:
            return self
        return dataclasses.replace(self, pixels=self.pixels.expand(-1, 3, -1, -1), digest="")

    def fingerprint(self) -> str:
        """The SHA-256 of pixels, labels and captions in hexadecimal: the same data has the same one, however called."""
        return self.digest or self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for tensor in (self.pixels, self.labels):
            if tensor is not None:
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().numpy().data)
        for caption in self.captions:
            digest.update(caption.encode() + b"\0")
        return digest.hexdigest()

    def mean(self) -> Tensor:
        """The mean image in [-1, 1], ``float32`` with shape (C, H, W).

        Summed in float64 by NumPy, which uses one thread, so that it is the same to the bit on any number of cores.
        """
        if self.digest and self.known_mean is not None:
            return self.known_mean.clone()
        total = np.zeros(self.shape)
        for chunk in self.pixels.split(CHUNK):
            total += chunk.numpy().sum(0, dtype=np.float64)
        total /= len(self)
        if self.pixels.dtype == torch.uint8:
            total = total / 127.5 - 1
        return torch.from_numpy(total.astype(np.float32))


def evenly_spaced(total: int, limit: int) -> Tensor:
    """The indices of at most ``limit`` of ``total`` images, spread evenly over them, all if there are no more."""
    count = min(total, limit)
    return torch.arange(count) * total // count


def number_classes(values: np.ndarray) -> tuple[Tensor, tuple[str, ...]]:
    """Numbers the classes from 0 in sorted order, whatever they were called, and keeps their names.

    Arguments:
        values: Integers, booleans or strings, with shape (N,).

    Returns:
        The labels, ``int64`` with shape (N,), and the names of the classes.
    """
    names, labels = np.unique(values, return_inverse=True)
    return torch.from_numpy(labels.astype(np.int64)), tuple(str(name) for name in names)
