"""Where sampling starts, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from immiscible.errors import InputError
from immiscible.seeds import seeded


@dataclass(frozen=True)
class Samples:
    r"""What a sampler returns: ``images`` with shape (B, \*) and ``nfe``, the number of network calls it took."""

    images: Tensor
    nfe: int


@dataclass(frozen=True)
class Start:
    r"""Where samples start. Sample i depends on the seed and on i only, however many are drawn at once.

    Attributes:
        noise: The noise, with shape (B, \*).
        labels: The class of each sample, with shape (B,), or None.
        seeds: A seed for each sample, of whatever else is drawn for it, such as the noise that some samplers add.
        data: What is mixed with the noise where samples start between noise and data, with shape (B, \*); in the range
            of the data.
        time: The share of the data in that mixture, in [0, 1): 0 is noise.
    """

    noise: Tensor
    labels: Tensor | None
    seeds: list[int]
    data: Tensor | None = None
    time: float = 0.0

    def __len__(self) -> int:
        return len(self.noise)

    def __getitem__(self, chosen: slice) -> Start:
        labels, data = (None if part is None else part[chosen] for part in (self.labels, self.data))
        return replace(self, noise=self.noise[chosen], labels=labels, seeds=self.seeds[chosen], data=data)

    def mixed(self, signal: float, spread: float) -> Tensor:
        """The points at which the data have one amplitude and the noise the other; the noise where there are no data.

        Arguments:
            signal: The amplitude of the data.
            spread: The amplitude of the noise.
        """
        return self.noise if self.data is None else signal * self.data + spread * self.noise

    def generators(self) -> list[torch.Generator]:
        """Fresh generators on the CPU, one for each sample, so that the device does not matter."""
        return [seeded(seed) for seed in self.seeds]


class NotFinite(InputError):
    """Samples or weights hold NaN or infinity, as those of a network do whose training has diverged."""


def check_finite(images: Tensor) -> Tensor:
    r"""Checks that samples with shape (B, \*) are finite, and returns them.

    Raises:
        NotFinite: If some are not: a picture of them would look like one.
    """
    bad = int((~images.flatten(1).isfinite().all(1)).sum())
    if bad:
        raise NotFinite(
            f"generated images must be finite, got {bad} of {len(images)} with NaN or infinite values: take another "
            "--step or sampler, or less guidance; a training that diverged needs a lower --learning-rate."
        )
    return images


class Sampler(Protocol):
    """How to sample: a method and a number of network calls, which ``str`` gives."""

    @property
    def name(self) -> str:
        """The method with its settings, for what is written about its samples."""
        ...
