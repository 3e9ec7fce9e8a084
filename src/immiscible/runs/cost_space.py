"""Fits the space that a run's coupling ranks in, see :mod:`immiscible.couplings.spaces`, to the run's data."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from immiscible.config.groups import RunConfig
from immiscible.couplings.axes import principal_axes
from immiscible.couplings.spaces import CostSpace
from immiscible.data.images import evenly_spaced
from immiscible.errors import InputError
from immiscible.training.sources import Points

# Standard deviations and principal components are taken of at most so many images, evenly spaced.
IMAGES = 4096
# Axes with less than this share of the leading one's variance are rounding.
NEGLIGIBLE = 1e-13
# A channel that is the same everywhere is not divided by its standard deviation.
LEAST_DEVIATION = 1e-6


def fit_cost_space(config: RunConfig, data: Points) -> CostSpace:
    """The space that a configuration asks for, fitted to its data as it is diffused: scaled, and mirrored or not.

    Raises:
        InputError: If the images cannot be pooled so, or there are fewer components than asked for.
    """
    kind, _, size = config.cost_space.partition(":")
    if kind == "raw":
        return CostSpace()
    space = CostSpace(centre=_centre(config, data))
    if kind == "standardized":
        space = dataclasses.replace(space, scale=_deviations(config, data, space))
    elif kind == "pooled":
        space = CostSpace(centre=space.centre, pool=_cells(int(size), data))
    elif kind == "pca":
        space = CostSpace(centre=space.centre, basis=_components(int(size), config, data, space))
    return space


def ranked_sample(config: RunConfig, data: Points, space: CostSpace, count: int) -> Tensor:
    """That many of the data, evenly spaced, or all if there are fewer, as the coupling sees them, with shape (m, d)."""
    x = data.batch(evenly_spaced(len(data), count))[0] * config.data_scale
    return space.ranked(x).flatten(1)


def _centre(config: RunConfig, data: Points) -> Tensor:
    mean = data.mean() * config.data_scale
    return (mean + mean.flip(-1)) / 2 if config.flip else mean


def _sample(config: RunConfig, data: Points) -> Tensor:
    """Some of the data, with shape (N, C, H, W)."""
    x = data.batch(evenly_spaced(len(data), IMAGES))[0] * config.data_scale
    return torch.cat([x, x.flip(-1)]) if config.flip else x


def _deviations(config: RunConfig, data: Points, space: CostSpace) -> Tensor:
    """The standard deviation of each channel around the mean image, with shape (C, 1, 1)."""
    variance = space.standardize(_sample(config, data)).double().square().mean((0, 2, 3))
    return variance.sqrt().clamp_min(LEAST_DEVIATION).float().view(-1, 1, 1)


def _cells(size: int, data: Points) -> int:
    _, height, width = data.shape
    if height % size or width % size:
        raise InputError(
            f"--cost-space pooled:N needs images whose height and width are multiples of N, got {height} x {width} "
            f"and pooled:{size}."
        )
    return size


def _components(count: int, config: RunConfig, data: Points, space: CostSpace) -> Tensor:
    """The leading principal components, as orthonormal rows with shape (count, D)."""
    rows = space.standardize(_sample(config, data)).flatten(1).double()
    # The mean of more data than these is subtracted, so they have a rank of their number, not of one less.
    axes, along = principal_axes(rows - rows.mean(0), rows.shape[1], NEGLIGIBLE)
    most = axes.shape[1] if along[0] > 0 else 0
    if count > most:
        raise InputError(
            f"--cost-space pca:N needs N of at most {most} for this data, which varies along no more axes, got "
            f"pca:{count}."
        )
    return axes[:, :count].T.float().contiguous()
