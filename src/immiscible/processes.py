r"""How datum, noise and time meet: the noisy point that the network sees, and the target that it learns.

Flow matching (arXiv 2210.02747, 2209.03003) joins noise and datum by a straight path, with :math:`t = 0` noise and
:math:`t = 1` data:

.. math:: x_t = (1 - t)\,n + t\,x, \qquad v^\star = \frac{d x_t}{dt} = x - n

The same noise stands in both, so a coupling that replaces the noise before this point changes both or neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from immiscible.couplings.base import per_row


@dataclass(frozen=True)
class Example:
    r"""What a network is trained on.

    Attributes:
        x_t: The noisy points, with shape (B, \*).
        target: The regression targets, with shape (B, \*).
        weight: The weight of each example in the loss, with shape (B,).
    """

    x_t: Tensor
    target: Tensor
    weight: Tensor


def flow(x: Tensor, noise: Tensor, t: Tensor) -> Example:
    r"""The noisy point and its velocity on the straight path from noise to data.

    Arguments:
        x: The data, with shape (B, \*).
        noise: The coupled noise, with the shape of ``x``.
        t: The times in [0, 1], with shape (B,); 0 is noise, 1 is data.
    """
    at = per_row(t, x)
    return Example((1 - at) * noise + at * x, x - noise, torch.ones_like(t))


def weighted_mse(prediction: Tensor, example: Example) -> Tensor:
    """The mean squared error over a batch, each example with its weight; a scalar in float32."""
    errors = (prediction.float() - example.target.float()).square().flatten(1).mean(1)
    return (errors * example.weight).mean()
