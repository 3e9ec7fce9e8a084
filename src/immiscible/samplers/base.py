"""Where sampling starts, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from immiscible.couplings.source import NORMAL, Normal, Source
from immiscible.errors import InputError
from immiscible.seeds import generator, seeded


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
        law: The law of the noise.
    """

    noise: Tensor
    labels: Tensor | None
    seeds: list[int]
    data: Tensor | None = None
    time: float = 0.0
    law: Source = NORMAL

    def __len__(self) -> int:
        return len(self.noise)

    def __getitem__(self, chosen: slice) -> Start:
        labels, data = (None if part is None else part[chosen] for part in (self.labels, self.data))
        return replace(self, noise=self.noise[chosen], labels=labels, seeds=self.seeds[chosen], data=data)

    def under(self, law: Source) -> Start:
        """The same start with its normal noise turned into noise of another law.

        Raises:
            InputError: If the law does not fit the noise or the classes.
        """
        if isinstance(law, Normal):
            return self
        draws = (generator("cpu", seed, "source") for seed in self.seeds)
        uniform = torch.stack([torch.rand((), generator=one, dtype=torch.float64) for one in draws])
        labels = None if self.labels is None else self.labels.cpu()
        noise = law.of(self.noise.cpu(), uniform, labels=labels).to(self.noise.device)
        return replace(self, noise=noise, law=law)

    def check_normal(self, sampler: Sampler) -> None:
        """Checks that a sampler that adds fresh noise starts from normal noise.

        Raises:
            InputError: If the noise has another law: on the way it is taken for normal, and independent of the data.
        """
        if not isinstance(self.law, Normal):
            raise InputError(fresh_noise(sampler, str(self.law)))

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


def fresh_noise(sampler: Sampler, law: str) -> str:
    """What is said of a sampler that adds fresh noise where samples start from another law than N(0, I)."""
    return (
        f"samples that start from {law} need a sampler without fresh noise, got {sampler.name} with {sampler} network "
        "calls: it takes the noise on its way for normal; take euler or heun for flows, ddim without eta for "
        "diffusion, --nfe 1 for consistency models."
    )


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
