r"""Latents of images: :math:`z = (\mu + \sigma\,\xi)\,f` of the VAE's posterior and its scaling factor, in float32.

This is what the coupling ranks and the noise is added to. The posterior's own randomness :math:`\xi` is drawn again
each time an image is, whether its moments come from the encoder or from disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from immiscible.config.groups import ImageRun
from immiscible.config.recipes import StableDiffusionConfig
from immiscible.couplings.spaces import reads_condition
from immiscible.data import Images
from immiscible.data.images import evenly_spaced
from immiscible.seeds import generator
from immiscible.training.sources import Drawn, Position, augmented, placed

# Images encoded at once when there are many. Fixed, so that the same images give the same latents to the bit.
CHUNK = 32
# Rankings and drifts are measured on at most that many latents, evenly spaced.
POINTS = 2048
# Spaces that rank by captions are fitted to that many, unless all are on disk; so many are read at once.
FITTED, ROWS = 8192, 1024


@dataclass(frozen=True)
class Encoder:
    """The VAE's encoder, on some device.

    Arguments:
        vae: ``AutoencoderKL``.
        device: Where it is.
    """

    vae: Any
    device: torch.device

    @torch.no_grad()
    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posteriors of RGB images in [-1, 1], each with shape (B, C, h, w)."""
        posterior = self.vae.encode(x.to(self.device)).latent_dist
        return posterior.mean.float(), posterior.std.float()

    def in_chunks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same of many images, on the CPU."""
        parts = [self.moments(part) for part in x.split(CHUNK)]
        means, deviations = zip(*parts, strict=True)
        return torch.cat(means).cpu().contiguous(), torch.cat(deviations).cpu().contiguous()


class Moments(Protocol):
    """The posteriors of a data set."""

    @property
    def row_bytes(self) -> int:
        """How many bytes are fetched for an image."""
        ...

    def fetch(self, indices: Tensor, position: Position) -> tuple[Tensor, ...]:
        """What the posteriors of some images are made of, on the CPU."""
        ...

    def place(self, fetched: tuple[Tensor, ...], position: Position) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of the posteriors of what was fetched, augmented, on the device."""
        ...

    def means(self, indices: Tensor) -> Tensor:
        """Means of some images as they are, on the CPU."""
        ...


@dataclass(frozen=True)
class EncodedMoments:
    """Posteriors that are computed when they are asked for.

    Arguments:
        images: The images, RGB.
        config: How they are augmented.
        encoder: The encoder.
    """

    images: Images
    config: ImageRun
    encoder: Encoder

    @property
    def row_bytes(self) -> int:
        """How many bytes are fetched for an image."""
        return 4 * math.prod(self.images.shape)

    def fetch(self, indices: Tensor, position: Position) -> tuple[Tensor, ...]:
        """Some images, see :class:`Moments`."""
        return (self.images.batch(indices)[0],)

    def place(self, fetched: tuple[Tensor, ...], position: Position) -> tuple[Tensor, Tensor]:
        """Encodes them, see :class:`Moments`."""
        return self.encoder.moments(augmented(placed(fetched[0], self.encoder.device), self.config, position))

    def means(self, indices: Tensor) -> Tensor:
        """Encodes some images, see :class:`Moments`."""
        return self.encoder.in_chunks(self.images.batch(indices)[0])[0]


@dataclass(frozen=True)
class LatentPoints:
    """Latents to measure rankings and drifts on, and their captions.

    Attributes:
        x: The latents, with shape (N, C, h, w).
        groups: Their classes, or None.
        embedded: Their captions as numbers, with shape (N, width).
        more: Gives more latents, with shape (n, C, h, w), and their captions, chunk by chunk: what spaces are fitted
            to.
    """

    x: Tensor
    groups: Tensor | None
    embedded: Tensor
    more: Callable[[], Iterator[tuple[Tensor, Tensor]]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, h, w) of one."""
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Some latents, and their classes."""
        return self.x[index], None if self.groups is None else self.groups[index]

    def mean(self) -> Tensor:
        """The mean latent, with shape (C, h, w)."""
        return self.x.double().mean(0).float()

    def condition(self, index: Tensor) -> Tensor:
        """The captions of some, with shape (B, width)."""
        return self.embedded[index]

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """More latents and their captions, chunk by chunk."""
        return self.more()


@dataclass(frozen=True)
class LatentSource:
    """Latents with the token ids of their captions.

    Arguments:
        moments: The posteriors.
        ids: The token ids, with shape (N, L).
        groups: The class of each that the coupling must keep noise within, with shape (N,), or None.
        captions: Makes numbers of token ids with shape (B, L), with shape (B, width), on the CPU.
        factor: The VAE's scaling factor.
        config: The configuration of the run.
        device: Where to put them.
    """

    moments: Moments
    ids: Tensor
    groups: Tensor | None
    captions: Callable[[Tensor], Tensor]
    factor: float
    config: StableDiffusionConfig
    device: torch.device

    def __len__(self) -> int:
        return len(self.ids)

    def bytes_of(self, count: int) -> int:
        """How many bytes are fetched for that many latents."""
        return count * self.moments.row_bytes

    def fetch(self, indices: Tensor, position: Position) -> tuple[Tensor, ...]:
        """What some latents are made of, and their token ids and classes."""
        groups = () if self.groups is None else (self.groups[indices],)
        return *self.moments.fetch(indices, position), self.ids[indices], *groups

    def place(self, fetched: tuple[Tensor, ...], position: Position) -> Drawn:
        """The latents on the device."""
        classes = 0 if self.groups is None else 1
        made_of, (ids, *groups) = fetched[: -1 - classes], fetched[-1 - classes :]
        mean, std = self.moments.place(made_of, position)
        draws = generator(self.device, self.config.seed, "latent", *position)
        x = mean + std * torch.randn(mean.shape, generator=draws, device=self.device)
        embedded = self.captions(ids) if reads_condition(self.config.cost_space) else None
        parts = ids, groups[0] if groups else None, embedded
        beside = (None if part is None else placed(part, self.device) for part in parts)
        return Drawn(x * (self.factor * self.config.data_scale), *beside)

    def draw(self, indices: Tensor, position: Position) -> Drawn:
        """Some latents, see :class:`~immiscible.training.sources.Source`."""
        return self.place(self.fetch(indices, position), position)

    def points(self) -> LatentPoints:
        """At most 2,048 latents without image scaling, see :class:`~immiscible.training.sources.PointSource`."""
        chosen = evenly_spaced(len(self), POINTS)
        means = self.moments.means(chosen) * self.factor
        groups = None if self.groups is None else self.groups[chosen]
        return LatentPoints(means, groups, self.captions(self.ids[chosen]), self._pairs)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Latents and captions to fit spaces to: all of what is on disk, and as many as are soon encoded."""
        count = len(self) if self.config.cache_latents else FITTED
        for index in evenly_spaced(len(self), count).split(ROWS):
            yield self.moments.means(index) * self.factor, self.captions(self.ids[index])
