"""Orthonormal bases: the one way in which this package takes principal axes, and the check of a basis that is given."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from immiscible.couplings.protocol import full_float32
from immiscible.errors import InputError

# Axes along which data vary by less than this share of the sum of squares along the leading one are rounding, which
# leaves about 1e-14 of it in float64.
NEGLIGIBLE, NEGLIGIBLE_FLOAT32 = 1e-13, 1e-6
# How far products of the rows of a basis may be off.
ORTHONORMAL = 1e-4


class PrincipalAxes(NamedTuple):
    """The axes along which data vary most.

    Attributes:
        mean: The mean of the data, with shape (D,).
        axes: Orthonormal columns with shape (D, q), the leading one first.
        squares: The sum of squares of the centred data along each, with shape (q,).
    """

    mean: Tensor
    axes: Tensor
    squares: Tensor


def principal_axes(points: Tensor, count: int | None = None) -> PrincipalAxes:
    r"""The leading principal axes of data, orthonormal whatever their rank, in their dtype.

    The eigenvectors of the smaller of the two Gram matrices give them, up to a division that leaves nothing but
    rounding of axes along which the data hardly vary. So those are cut off, and a QR decomposition makes the others
    orthonormal.

    Arguments:
        points: The data, ``float32`` or ``float64`` with shape (m, D).
        count: How many axes at most; None for all.

    Returns:
        The axes, fewer where the data vary along fewer. There is always one, with a sum of squares of zero where all
        data are equal.
    """
    negligible = NEGLIGIBLE if points.dtype == torch.float64 else NEGLIGIBLE_FLOAT32
    mean = points.mean(0)
    centred = points - mean
    # Products of large values would leave the range of float32.
    largest = centred.abs().amax().clamp_min(torch.finfo(points.dtype).tiny)
    scaled = centred / largest
    wide = len(scaled) <= scaled.shape[1]
    values, vectors = torch.linalg.eigh(scaled @ scaled.T if wide else scaled.T @ scaled)
    rank = int((values > values[-1] * negligible).sum().clamp_min(1))
    vectors = vectors.flip(1)[:, : min(count or rank, rank)]
    axes = torch.linalg.qr(scaled.T @ vectors if wide else vectors)[0]
    squares = values.flip(0)[: axes.shape[1]].clamp_min(0) * largest**2
    # Of equal data the rounding of their mean may be left.
    equal = largest <= 16 * torch.finfo(points.dtype).eps * points.abs().amax()
    return PrincipalAxes(mean, axes, squares.masked_fill(equal, 0))


def check_orthonormal(basis: Tensor) -> None:
    """Checks that the rows of a basis are orthonormal: else what is put back in the noise has not the law of noise.

    Raises:
        InputError: If they are not, or there are more of them than they have values.
    """
    if basis.ndim != 2 or not 1 <= len(basis) <= basis.shape[1]:
        raise InputError(f"`basis` must have shape (d, D) with 1 <= d <= D, got {tuple(basis.shape)}.")
    with full_float32(basis.device):
        products = basis.float() @ basis.float().T
    error = (products - torch.eye(len(basis), device=basis.device)).abs().max().item()
    if not error <= ORTHONORMAL:
        raise InputError(
            f"`basis` must have orthonormal rows, got products of rows that are off by {error:.2g}: take "
            "`torch.linalg.qr(basis.T)[0].T`."
        )
