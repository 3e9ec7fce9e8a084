r"""Ridge regression in closed form, in float64, from sums that are taken chunk by chunk.

On standardised inputs :math:`S` the fit shrinks each principal direction of their correlations by
:math:`s/(s + \lambda)`, with its eigenvalue :math:`s`, so what all penalties :math:`\lambda` leave unexplained follows
from one decomposition. The penalty is that of least generalised cross-validation (Golub, Heath and Wahba, Technometrics
21, 1979). Means, second moments and the fit are in float64: least squares in float32 lose directions along which inputs
vary little, such as the movement between two observations that are nearly alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ridge:
    """A fitted regression.

    Attributes:
        mean: The mean of the inputs, with shape (p,).
        weights: What an output changes by with an input, with shape (p, c).
        middle: The mean of the outputs, with shape (c,).
        variance: The variance of each output, with shape (c,).
        left: The part of it that is not explained, with shape (c,).
    """

    mean: Tensor
    weights: Tensor
    middle: Tensor
    variance: Tensor
    left: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """Predictions with shape (m, c), for inputs with shape (m, p)."""
        return (inputs - self.mean) @ self.weights + self.middle


class Moments:
    """Sums of inputs, outputs and their products, over pairs that are handed in one chunk after the other."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Adds pairs.

        Arguments:
            inputs: What is predicted from, ``float64`` with shape (n, p).
            outputs: What is predicted, ``float64`` with shape (n, c).
        """
        if not self.count:
            # Relative to one of them the squares do not drown the variance, and what is constant is exactly zero.
            self._origin = inputs[0], outputs[0]
            self._sums = [part.new_zeros(part.shape[1]) for part in (inputs, outputs, outputs)]
            self._products = [inputs.new_zeros(inputs.shape[1], part.shape[1]) for part in (inputs, outputs)]
        self.count += len(inputs)
        inputs, outputs = inputs - self._origin[0], outputs - self._origin[1]
        for total, part in zip(self._sums, (inputs, outputs, outputs.square()), strict=True):
            total += part.sum(0)
        for total, part in zip(self._products, (inputs, outputs), strict=True):
            total.addmm_(inputs.T, part)

    def fit(self, penalties: Tensor) -> Ridge:
        """The regression with the best of some penalties.

        Arguments:
            penalties: In units of the variance of one input, positive, with shape (q,).
        """
        count = self.count
        mean, middle, squares = (total / count for total in self._sums)
        inner, outer = self._products
        covariance, joint = inner / count - mean.outer(mean), outer / count - mean.outer(middle)
        variance = (squares - middle.square()).clamp_min(0)
        spread = covariance.diagonal().clamp_min(0).sqrt()
        # What does not vary says nothing.
        scale = torch.where(spread > 0, 1 / spread, 0)
        values, vectors = torch.linalg.eigh(covariance * scale * scale[:, None])
        values = values.clamp_min(0)
        along = vectors.T @ (joint * scale[:, None])
        # Each direction explains (2 - kept) * kept of its share.
        shares = torch.where(values > 0, 1 / values.clamp_min(1e-300), 0)[:, None] * along.square()
        kept = values / (values + penalties[:, None])
        residual = (variance.sum() - (kept * (2 - kept)) @ shares.sum(1)).clamp_min(0)
        freedom = (1 - (kept.sum(1) + 1) / count).clamp_min(1e-9)
        best = (residual / freedom.square()).argmin()
        left = (variance - (kept[best] * (2 - kept[best])) @ shares).clamp_min(0)
        weights = scale[:, None] * (vectors @ (along / (values + penalties[best])[:, None]))
        return Ridge(mean + self._origin[0], weights, middle + self._origin[1], variance, left)
