"""Fits the space that a run's coupling ranks in, see :mod:`immiscible.couplings.spaces`, to the run's data.

A coupling that is itself fitted to data is fitted in that space, see :mod:`immiscible.runs.fitted`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from immiscible.analysis.batches import Batches
from immiscible.analysis.drift import Drift, measure_drift
from immiscible.analysis.leak import FEWEST, Leak, leak
from immiscible.config.groups import InputFields, RunConfig, inputs_of
from immiscible.couplings import Coupling, parse_coupling
from immiscible.couplings.fitting import Fittable
from immiscible.couplings.protocol import rows
from immiscible.couplings.residuals import Conditioned
from immiscible.couplings.spaces import Accompanied, Conditional, Fitted, InSpace, Space, parse_space
from immiscible.data.augment import mirror
from immiscible.data.images import evenly_spaced
from immiscible.io.files import write_bytes
from immiscible.runs.fitted import fit_coupling, lines_on, with_fit, write_fit
from immiscible.seeds import generator
from immiscible.training.sources import ConditionedPoints, Points

# A space is fitted to a sample of at most this many of the data, evenly spaced, and to the mean of all. A leak is
# measured on as many.
IMAGES = 4096
# The drift and the leak are measured on about this many noises, in at most this many batches: enough to see one per
# cent in a moment.
DRIFT_NOISES = 8192
MOST_DRIFT_BATCHES = 256
# Large pools are measured by smaller ones: to permute noise leaves its law as it is in both.
MOST_DRIFT_POOL = 2048


@dataclass(frozen=True)
class Diffused:
    """The data of a run as they are diffused: scaled, and mirrored besides where the run mirrors them at random.

    Attributes:
        points: The data as they are.
        inputs: What is done to them.
    """

    points: Points
    inputs: InputFields

    def mean(self) -> Tensor:
        """Their mean, with the shape of one."""
        mean = self.points.mean() * self.inputs.data_scale
        return (mean + mirror(mean)) / 2 if self.inputs.flip else mean

    def sample(self) -> Tensor:
        r"""Some of them, with shape (N, \*)."""
        x = self.spread(IMAGES)
        return torch.cat([x, mirror(x)]) if self.inputs.flip else x

    def spread(self, count: int) -> Tensor:
        r"""At most ``count`` of them, evenly spaced and not mirrored, with shape (N, \*)."""
        return self.points.batch(evenly_spaced(len(self.points), count))[0] * self.inputs.data_scale


@dataclass(frozen=True)
class DiffusedPairs(Diffused):
    """The same where each has a continuous condition."""

    points: ConditionedPoints

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        r"""All of them with shape (n, \*), and their conditions, chunk by chunk."""
        for x, condition in self.points.pairs() if isinstance(self.points, Conditioned) else self._chunks():
            x = x * self.inputs.data_scale
            yield x, condition
            if self.inputs.flip:
                yield mirror(x), condition

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.arange(len(self.points)).split(IMAGES):
            yield self.points.batch(index)[0], self.points.condition(index)


def fit_cost_space(config: RunConfig, data: Points) -> Fitted:
    """The space that a configuration asks for, fitted to its data as they are diffused.

    Raises:
        InputError: If the data have no such space.
    """
    return parse_space(config.cost_space)(_diffused(data, config))


def _diffused(data: Points, config: RunConfig) -> Diffused:
    inputs = inputs_of(config)
    return DiffusedPairs(data, inputs) if isinstance(data, ConditionedPoints) else Diffused(data, inputs)


def ranked_sample(config: RunConfig, data: Points, space: Space, count: int) -> Tensor:
    """Data as the coupling sees them.

    Arguments:
        config: The configuration of the run.
        data: Its data.
        space: What they are ranked in.
        count: How many, evenly spaced; all if there are fewer.

    Returns:
        A row for each, with shape (m, d).
    """
    if isinstance(space, Conditional) and isinstance(data, ConditionedPoints):
        space = space.given(data.condition(evenly_spaced(len(data), count)))
    return rows(space.ranked(Diffused(data, inputs_of(config)).spread(count)))


def ranked_batches(
    config: RunConfig, data: Points, space: Space, grouped: bool
) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
    """All data as the coupling sees them, in random order, batch by batch.

    Arguments:
        config: The configuration of the run.
        data: Its data.
        space: What they are ranked in.
        grouped: Whether their classes come with them, if they have any.
    """
    inputs = inputs_of(config)
    order = torch.randperm(len(data), generator=generator("cpu", config.seed, "ranked"))
    for index in order.split(IMAGES):
        x, labels = data.batch(index)
        if isinstance(space, Conditional) and isinstance(data, ConditionedPoints):
            space = space.given(data.condition(index))
        for shown in (x, mirror(x)) if inputs.flip else (x,):
            ranked = space.ranked(shown * inputs.data_scale)
            yield ranked if labels is None or not grouped else (ranked, labels)


@dataclass(frozen=True)
class Ranking:
    """What a run's coupling ranks.

    Attributes:
        config: The configuration of the run.
        points: Its data.
        space: The space that its coupling ranks in.
        fitted: What of its coupling is fitted to the data, fitted, if anything is.
    """

    config: RunConfig
    points: Points
    space: Fitted
    fitted: Fittable | None = None

    @staticmethod
    def fit(config: RunConfig, points: Points, grouped: bool = False) -> Ranking:
        """Fits the space that a configuration asks for, and its coupling where that is fitted to data.

        Arguments:
            config: The configuration of the run, whose directory may hold the fit that it began with.
            points: Its data.
            grouped: Whether noise stays within classes.
        """
        space = fit_cost_space(config, points)
        fitted = fit_coupling(
            parse_coupling(config.coupling), config.out, lambda: ranked_batches(config, points, space, grouped)
        )
        return Ranking(config, points, space, fitted)

    def coupling(self, device: torch.device | str = "cpu") -> Coupling:
        """The run's coupling, in the space; nothing waits in it yet."""
        device = torch.device(device)
        space = self.space.to(device)
        coupling = with_fit(parse_coupling(self.config.coupling), self.fitted, device)
        return coupling if space.trivial else InSpace(coupling, space)

    def lines(self) -> list[str]:
        """What is said of what was fitted to the data."""
        return lines_on(self.fitted)

    def sample(self, count: int) -> Tensor:
        """That many of the data as they are ranked, see :func:`ranked_sample`."""
        return ranked_sample(self.config, self.points, self.space, count)

    def drift(self, together: int, grouped: bool) -> Drift:
        """How far the coupled noise is from its law, where that many data are paired at once, within classes or not."""
        size = min(together, MOST_DRIFT_POOL)
        return measure_drift(
            self.coupling(),
            self.points,
            scale=inputs_of(self.config).data_scale,
            batch_size=size,
            batches=min(MOST_DRIFT_BATCHES, max(1, DRIFT_NOISES // size)),
            labelled=grouped,
        )

    def leak(self, together: int, grouped: bool = False) -> Leak | None:
        """How well the condition is read from the coupled noise; None where there is none that varies, or data are few.

        Arguments:
            together: How many data are paired at once.
            grouped: Whether noise stays within classes.
        """
        if not isinstance(self.points, ConditionedPoints) or len(self.points) < FEWEST:
            return None
        index = evenly_spaced(len(self.points), IMAGES)
        condition, labels = self.points.condition(index), self.points.batch(index)[1] if grouped else None
        if not bool((condition != condition[0]).any()):
            return None
        size = min(together, MOST_DRIFT_POOL)
        batches = Batches(max(1, DRIFT_NOISES // size), size, labels, condition=condition)
        coupling = with_fit(parse_coupling(self.config.coupling), self.fitted)
        if not isinstance(self.space, Accompanied):
            return leak(self.sample(IMAGES), condition, coupling, batches)
        x = Diffused(self.points, inputs_of(self.config)).spread(IMAGES)
        return leak(x, condition, InSpace(coupling, self.space), batches)

    def write(self, out: Path) -> None:
        """Keeps what the data is ranked by beside the run."""
        if tensors := {name: tensor for name, tensor in self.space.tensors().items() if tensor is not None}:
            write_bytes(out / "cost-space.safetensors", save(tensors))
        if self.fitted is not None:
            write_fit(out, self.fitted)
