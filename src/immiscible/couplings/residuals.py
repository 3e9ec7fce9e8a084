r"""The space of what a continuous condition leaves open, for couplings of conditional models.

A model that is given a condition :math:`c`, such as an observation or the embedding of a text, starts from
:math:`N(0, I)` whatever the condition. But where the condition tells much of the datum, noise that was assigned to the
datum tells the condition, the model learns to look for it there, and is misled at sampling. Within classes an
assignment does no such harm; of a continuous condition there are no classes. So data are ranked by

.. math:: z = \left(x - \hat x(c)\right) / s,

with the ridge regression :math:`\hat x` of the data on the condition, and the standard deviation :math:`s` of each
coordinate of what it leaves. The noise of an assignment then tells nothing of the condition that a linear map could
read from it, and still goes with what the condition leaves open.

What a condition tells otherwise, such as on which side of zero a residual lies, the noise still tells: the law given a
condition is nearer to :math:`N(0, I)` than without residuals, and not equal to it.

A batch has its condition, so the fitted space is :meth:`~ResidualSpace.given` it, and what comes out is a
:class:`~immiscible.couplings.spaces.Space` for this batch. Each process ranks its own data; no condition travels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from immiscible.couplings.protocol import check_plain, full_float32, rows
from immiscible.couplings.ridge import Moments
from immiscible.errors import InputError

# Penalties in units of the variance of one number of the condition.
PENALTIES = torch.logspace(-10, 4, 57, dtype=torch.float64)
# Data that are fitted at once, which bounds the memory of their float64 copies.
CHUNK = 4096
# The regression decomposes a matrix of this many rows and columns.
MOST_NUMBERS = 8192
# A deviation of less than this share of the whole one is rounding: nothing is left open.
NOTHING_LEFT = 1e-5
NO_CONDITION = (
    "the cost space {} needs the condition of each datum of a batch, got none: rank in `space.given(condition)`."
)


@runtime_checkable
class Conditioned(Protocol):
    """Data with a continuous condition, in chunks."""

    def pairs(self) -> Iterable[tuple[Tensor, Tensor]]:
        r"""Data with shape (n, \*), and the condition of each with shape (n, \*), chunk by chunk."""
        ...


@dataclass(frozen=True, eq=False)
class ResidualSpace:
    r"""What a continuous condition leaves open of data, see :mod:`immiscible.couplings.residuals`.

    Source: this package.

    Attributes:
        mean: The mean of the condition, ``float32`` as all of them, with shape (c,).
        weights: What the data change by with the condition, with shape (c, D).
        centre: The mean of the data, with the shape of one.
        scale: The standard deviation of each coordinate of what is left, with the shape of one. Where nothing is left,
            that of the coordinate itself, and one where it does not vary.
        condition: The condition of each datum of a batch, with shape (B, \*), or None before :meth:`given`.

    Example:
        >>> from immiscible import InSpace, LinearAssignment
        >>> actions, observations = torch.randn(64, 16, 2), torch.randn(64, 10)
        >>> space = ResidualSpace.fit(actions, observations)
        >>> x, condition = actions[:8], observations[:8]
        >>> noise = InSpace(LinearAssignment(), space.given(condition))(x, torch.randn_like(x))
    """

    name: ClassVar[str] = "residual"
    # All that data and noise are is compared.
    is_coarse = False
    trivial = False

    mean: Tensor
    weights: Tensor
    centre: Tensor
    scale: Tensor
    condition: Tensor | None = None

    @classmethod
    def fit(cls, x: Tensor | Conditioned, condition: Tensor | None = None) -> ResidualSpace:
        r"""Fits the space to data and their condition, in float64.

        Arguments:
            x: All data, or a large sample, with shape (N, \*); or data with a method ``pairs``, see
                :class:`Conditioned`, where they are too many for the memory.
            condition: The condition of each, floating numbers with shape (N, \*); none beside ``pairs``.

        Raises:
            InputError: If there is no condition, or not one for each datum, or something is not finite.
        """
        moments, shape = Moments(), torch.Size()
        for data, given in chunks(x, condition, "residual"):
            check_pairs(data, given)
            shape = data.shape[1:]
            moments.add(rows(given).double().cpu(), rows(data).double().cpu())
        if not moments.count:
            raise InputError("the cost space residual needs at least one datum, got none.")
        fitted = moments.fit(PENALTIES)
        deviation, left = fitted.variance.sqrt(), fitted.left.sqrt()
        scale = torch.where(left > NOTHING_LEFT * deviation, left, torch.where(deviation > 0, deviation, 1.0))
        found = fitted.mean, fitted.weights, fitted.middle.view(shape), scale.view(shape)
        return cls(*(part.float() for part in found))

    def given(self, condition: Tensor | None) -> ResidualSpace:
        r"""The space for a batch.

        Arguments:
            condition: The condition of each datum of the batch, with shape (B, \*), on the device of the space.

        Raises:
            InputError: If it is none, has another number of values than the conditions that the space was fitted to,
                is not finite, or is on another device.
        """
        return dataclasses.replace(self, condition=for_batch(condition, self.mean, "residual"))

    def ranked(self, x: Tensor) -> Tensor:
        """Data less what their condition says of them, over the deviation of what it leaves open."""
        if self.condition is None:
            raise InputError(NO_CONDITION.format("residual"))
        check_count(x, self.condition)
        check_datum(x, self.centre)
        with full_float32(x.device):
            explained = (rows(self.condition).float() - self.mean) @ self.weights
            return (x - self.centre - explained.view(x.shape)) / self.scale

    def coarse(self, noise: Tensor) -> Tensor:
        """The noise: all of it is ranked."""
        return noise

    def replaced(self, noise: Tensor, chosen: Tensor) -> Tensor:
        """What was chosen."""
        return chosen

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that it was fitted to, by their names."""
        return {name: getattr(self, name) for name in ("mean", "weights", "centre", "scale")}

    def to(self, device: torch.device | str) -> ResidualSpace:
        """The same space on a device."""
        return ResidualSpace(**{name: value.to(device) for name, value in self.tensors().items()})


def chunks(x: Any, condition: Tensor | None, space: str) -> Iterable[tuple[Tensor, Tensor]]:
    """Data and their condition, chunk by chunk.

    Arguments:
        x: The data, or what has a method ``pairs``.
        condition: The condition of each, if that is apart.
        space: What a space that needs it is called.
    """
    if condition is None:
        if not hasattr(x, "pairs"):
            raise InputError(
                f"the cost space {space} needs a continuous condition of each datum, such as an observation, got "
                "data without one: rank in another space."
            )
        return x.pairs()
    _check_rows(x, "x")
    _check_rows(condition, "condition")
    check_count(x, condition)
    return zip(x.split(CHUNK), condition.split(CHUNK), strict=True)


def for_batch(condition: Tensor | None, mean: Tensor, space: str) -> Tensor:
    r"""The condition of a batch, checked.

    Arguments:
        condition: The condition of each datum, with shape (B, \*).
        mean: The mean of those that a space was fitted to, with shape (c,).
        space: What the space is called.
    """
    if condition is None:
        raise InputError(NO_CONDITION.format(space))
    check_plain(condition, "condition")
    if condition.ndim == 0 or rows(condition).shape[1:] != mean.shape:
        raise InputError(
            f"`condition` must have {len(mean)} numbers for each datum, as when the space was fitted, got shape "
            f"{tuple(condition.shape)}."
        )
    if condition.device != mean.device:
        raise InputError(
            f"`condition` must be on the device of the space, {mean.device}, got {condition.device}: use "
            f'`space.to("{condition.device}")`.'
        )
    check_numbers(condition, "condition")
    return condition


def check_pairs(x: Tensor, condition: Tensor) -> None:
    """Checks a chunk of data, and their condition."""
    for values, name in ((x, "x"), (condition, "condition")):
        _check_rows(values, name)
        check_numbers(values, name)
    check_count(x, condition)
    if rows(condition).shape[1] > MOST_NUMBERS:
        raise InputError(
            f"`condition` must have at most {MOST_NUMBERS} numbers for each datum, got {rows(condition).shape[1]}: "
            "take fewer, such as the mean over the tokens of a text."
        )


def _check_rows(values: Tensor, name: str) -> None:
    check_plain(values, name)
    if not values.numel():
        raise InputError(f"`{name}` must have shape (N, *) with at least one element, got {tuple(values.shape)}.")


def check_numbers(values: Tensor, name: str) -> None:
    """Checks that all of them are finite."""
    if not bool(values.isfinite().all()):
        raise InputError(f"`{name}` must be finite, got NaN or infinite values: check the data.")


def check_count(x: Tensor, condition: Tensor) -> None:
    """Checks that there is a condition for each datum."""
    if len(x) != len(condition):
        raise InputError(f"`condition` must have a row for each of {len(x)} data, got {len(condition)}.")


def check_datum(x: Tensor, centre: Tensor) -> None:
    """Checks that data have the shape of those that a space was fitted to."""
    if x.shape[1:] != centre.shape:
        raise InputError(
            f"`x` must have shape (B, *) with data of shape {tuple(centre.shape)}, as when the space was fitted, got "
            f"{tuple(x.shape)}."
        )
