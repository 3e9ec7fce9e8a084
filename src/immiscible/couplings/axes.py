"""Principal axes: the one way in which this package takes them, orthonormal whatever the rank of the data."""

from __future__ import annotations

import torch
from torch import Tensor


def principal_axes(points: Tensor, count: int, negligible: float) -> tuple[Tensor, Tensor]:
    r"""The leading principal axes of centred data, fewer if there are not as many, in the dtype of the data.

    The eigenvectors of the smaller of the two Gram matrices give them, up to a division that leaves nothing but
    rounding of axes along which the data hardly varies. So those are cut off, and a QR decomposition makes the others
    orthonormal.

    Arguments:
        points: The data, with shape (m, D) and their mean subtracted.
        count: How many at most.
        negligible: The share of the leading axis' sum of squares below which there is no axis. Of rounding alone
            about 1e-6 is left in float32 and 1e-14 in float64.

    Returns:
        The axes as orthonormal columns with shape (D, q), the leading one first, and the sum of squares of the data
        along each, with shape (q,). There is always one, of sum zero where all data are zero.
    """
    # Products of large values would leave the range of float32.
    largest = points.abs().amax().clamp_min(torch.finfo(points.dtype).tiny)
    points = points / largest
    tall = len(points) <= points.shape[1]
    values, vectors = torch.linalg.eigh(points @ points.T if tall else points.T @ points)
    rank = int((values > values[-1] * negligible).sum().clamp_min(1))
    vectors = vectors.flip(1)[:, : min(count, rank)]
    axes = torch.linalg.qr(points.T @ vectors if tall else vectors)[0]
    return axes, values.flip(0)[: axes.shape[1]].clamp_min(0) * largest**2
