"""Fits the space that a run's coupling ranks in, see :mod:`immiscible.couplings.spaces`, to the run's data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from immiscible.config.groups import RunConfig
from immiscible.couplings.protocol import rows
from immiscible.couplings.spaces import LinearSpace, Space, parse_space
from immiscible.data.augment import mirror
from immiscible.data.images import evenly_spaced
from immiscible.training.sources import Points

# A space is fitted to a sample of at most this many of the data, evenly spaced, and to the mean of all.
IMAGES = 4096


@dataclass(frozen=True)
class Diffused:
    """The data of a run as they are diffused: scaled, and mirrored besides where the run mirrors them at random.

    Attributes:
        points: The data as they are.
        config: What is done to them.
    """

    points: Points
    config: RunConfig

    def mean(self) -> Tensor:
        """Their mean, with the shape of one."""
        mean = self.points.mean() * self.config.data_scale
        return (mean + mirror(mean)) / 2 if self.config.flip else mean

    def sample(self) -> Tensor:
        r"""Some of them, with shape (N, \*)."""
        x = self.spread(IMAGES)
        return torch.cat([x, mirror(x)]) if self.config.flip else x

    def spread(self, count: int) -> Tensor:
        r"""At most ``count`` of them, evenly spaced and not mirrored, with shape (N, \*)."""
        return self.points.batch(evenly_spaced(len(self.points), count))[0] * self.config.data_scale


def fit_cost_space(config: RunConfig, data: Points) -> LinearSpace:
    """The space that a configuration asks for, fitted to its data as they are diffused.

    Raises:
        InputError: If the data have no such space.
    """
    return parse_space(config.cost_space)(Diffused(data, config))


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
    return rows(space.ranked(Diffused(data, config).spread(count)))
