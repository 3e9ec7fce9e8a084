"""Where sampling starts, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
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
        seeds: A seed for each sample, of the noise that some samplers add on their way.
    """

    noise: Tensor
    labels: Tensor | None
    seeds: list[int]

    def __len__(self) -> int:
        return len(self.noise)

    def __getitem__(self, chosen: slice) -> Start:
        return Start(self.noise[chosen], None if self.labels is None else self.labels[chosen], self.seeds[chosen])

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
