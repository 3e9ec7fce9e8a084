"""The law that a biased coupling gives the noise, as far as a Gaussian along a few components describes it."""

from __future__ import annotations

import torch
from torch import Tensor

from immiscible.couplings.axes import principal_axes
from immiscible.couplings.mixtures import fit_mixture
from immiscible.couplings.protocol import full_float32, rows
from immiscible.couplings.source import LowRankMixture

RANK = 16


def induced_law(x: Tensor, noise: Tensor, labels: Tensor | None = None) -> LowRankMixture:
    r"""A low-rank Gaussian with the mean and covariance of coupled noise.

    What ranks by the data moves noise along what the data have in common: the components are the direction of the mean
    noise and the leading principal components of the data. Elsewhere the noise has one standard deviation, which KNN
    makes less than one.

    Arguments:
        x: Some of the data, with shape (N, \*).
        noise: Noise that was coupled, with shape (M, \*).
        labels: The class of each noise, with shape (M,), where each class is to have a law of its own.
    """
    points, flat = rows(x).float(), rows(noise).float()
    with full_float32(noise.device):
        axes = principal_axes(points, RANK - 1).axes
        columns = torch.cat([flat.mean(0)[:, None], axes], 1)[:, : flat.shape[1]]
        basis = torch.linalg.qr(columns)[0].T.contiguous()
        along = flat @ basis.T
    mixture = fit_mixture(along, labels, components=1)
    beside = flat.shape[1] - len(basis)
    square = (flat.square().sum() - along.square().sum()).item() / (len(flat) * beside) if beside else 1.0
    return LowRankMixture.along(basis, mixture, max(square, 0.0) ** 0.5)
