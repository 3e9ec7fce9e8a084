r"""A prior of data without any network, as a control: a Gaussian mixture along the principal components of the data.

.. math:: x = m + P^\top z, \qquad z \sim \sum_k w_k\, N(\mu_k, \Sigma_k)

with the mean :math:`m` and the leading components :math:`P` of the data. It is fitted in seconds, to one mixture for
each class where samples are drawn by class. What a coupling gains with a network in a short training may be no more
than such a prior has by itself; so runs of vanilla training can start from it, between noise and data, and its own
samples can be scored beside theirs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from immiscible.couplings import parse_coupling
from immiscible.couplings.axes import principal_axes
from immiscible.couplings.mixtures import fit_mixture
from immiscible.couplings.source import LowRankMixture, is_informed
from immiscible.data import Images
from immiscible.data.images import evenly_spaced
from immiscible.errors import InputError
from immiscible.runs.open import Run
from immiscible.samplers import Sampler, Samples, Start
from immiscible.samplers.starting import Starting
from immiscible.seeds import generator
from immiscible.tasks.base import draw_start, images_at_once

# The mixture is fitted to this many images at most, and the components are those of this many.
IMAGES, IMAGES_OF_AXES = 10_000, 2048


@dataclass(frozen=True, eq=False)
class Prior:
    """A prior of data, fitted when it is first drawn from.

    Attributes:
        data: The data.
        components: How many principal components at most.
        by_class: Whether each class has a mixture of its own.
    """

    data: Images
    components: int
    by_class: bool = False

    @cached_property
    def law(self) -> LowRankMixture:
        """The law of the images, which are flat in it."""
        x, labels = self.data.batch(evenly_spaced(len(self.data), IMAGES))
        x = x.flatten(1)
        mean, axes, _ = principal_axes(x[evenly_spaced(len(x), IMAGES_OF_AXES)], self.components)
        mixture = fit_mixture((x - mean) @ axes, labels if self.by_class else None)
        return LowRankMixture(axes.T.contiguous(), mean, mixture, torch.tensor(0.0))

    def draw(self, start: Start) -> Tensor:
        r"""Images with shape (B, \*), each of which depends on the seed and the class of its start only."""
        noise, uniform = [], []
        for seed in start.seeds:
            draws = generator("cpu", seed, "prior")
            uniform.append(torch.rand((), generator=draws, dtype=torch.float64))
            noise.append(torch.randn(start.noise.shape[1:], generator=draws))
        labels = start.labels.cpu() if self.by_class and start.labels is not None else None
        return self.law.of(torch.stack(noise), torch.stack(uniform), labels=labels).to(start.noise.device)


@dataclass(frozen=True)
class FromPrior:
    """Moves starts to a time between noise and data, see :class:`immiscible.runs.open.Opening`.

    Attributes:
        prior: What the data are drawn from.
        starting: At which time.
    """

    prior: Prior
    starting: Starting

    @property
    def name(self) -> str:
        """The spelling."""
        return str(self.starting)

    def __call__(self, start: Start) -> Start:
        """Mixes data into the noise of a start."""
        return dataclasses.replace(start, data=self.prior.draw(start), time=self.starting.time)


def begun(run: Run, starting: Starting, prior_of: Callable[[int, bool], Prior]) -> Run:
    """A run whose samples start elsewhere.

    Arguments:
        run: The run.
        starting: Where they start.
        prior_of: Gives the prior of that many components of the run's data, by class or of all.

    Raises:
        InputError: If its coupling has a source of its own.
    """
    if not starting.components:
        return run.under(starting.law)
    check_from_noise(run.config.coupling)
    prior = prior_of(starting.components, run.classes > 0)
    return dataclasses.replace(run, opening=FromPrior(prior, starting))


def check_from_noise(coupling: str) -> None:
    """Checks that the noise of a coupling is independent of what a prior adds to it.

    Raises:
        InputError: If the coupling has a source of its own, whose noise resembles the data already.
    """
    if is_informed(parse_coupling(coupling)):
        raise InputError(
            f"a start between noise and data must be of a run whose samples start from N(0, I), got {coupling}, which "
            "has a source of its own: leave the start at auto."
        )


@dataclass(frozen=True)
class NoCalls:
    """How a prior is sampled: without a network."""

    @property
    def name(self) -> str:
        """There is no method."""
        return "none"

    def __str__(self) -> str:
        return "0"


@dataclass(frozen=True)
class PriorRun:
    """A prior as what scores runs sees it: drawn from like a trained run, see :class:`immiscible.runs.open.Run`.

    Attributes:
        path: Where its scores are kept.
        prior: The prior.
    """

    path: Path
    prior: Prior
    step: int = 0

    @property
    def guidance(self) -> float:
        """No guidance."""
        return 1.0

    @property
    def starts(self) -> str:
        """Where its samples start: they are the prior's own."""
        return f"components:{self.prior.components}"

    @property
    def at_once(self) -> int:
        """How many images are drawn at once."""
        return images_at_once(self.prior.data.shape)

    def start(self, count: int, seed: int, scale: float = 1.0, first: int = 0) -> Start:
        """Where to start, by classes in turn where the prior has some, see :meth:`immiscible.runs.open.Run.start`."""
        classes = self.prior.data.classes if self.prior.by_class else 0
        return draw_start(self.prior.data.shape, range(first, first + count), classes, seed, "cpu", scale)

    def sample(self, start: Start, sampler: Sampler, guidance: float = 1.0) -> Samples:
        """Draws images, in no network calls."""
        return Samples(self.prior.draw(start), 0)

    def prompts(self, count: int) -> list[str]:
        """There are none."""
        return [""] * count
