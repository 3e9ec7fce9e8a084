r"""How datum, noise and time meet: the noisy point that the network sees, and the target that it learns.

Flow matching (arXiv 2210.02747, 2209.03003) joins noise and datum by a straight path, with :math:`t = 0` noise and
:math:`t = 1` data:

.. math:: x_t = (1 - t)\,n + t\,x, \qquad v^\star = \frac{d x_t}{dt} = x - n

Diffusion (arXiv 2006.11239) mixes them by amplitudes whose squares add up to one, :math:`\bar\alpha_t` from the
schedule, and has three targets of equal worth (arXiv 2202.00512):

.. math:: x_t = \sqrt{\bar\alpha_t}\,x + \sqrt{1 - \bar\alpha_t}\,n, \qquad \epsilon^\star = n, \quad
    v^\star = \sqrt{\bar\alpha_t}\,n - \sqrt{1 - \bar\alpha_t}\,x, \quad x_0^\star = x

The same noise stands in the noisy point and in the target, so a coupling that replaces the noise before this point
changes both or neither.

*Image scaling* multiplies the data by :math:`s` and leaves the noise alone, so the ratio of signal to noise grows by
:math:`s` at every time. A *schedule shift* does that by moving the times instead, and leaves the data alone: up to the
size of what the network sees and the weight of each time in the loss the two are one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from immiscible.couplings.protocol import per_row

T = TypeVar("T", float, Tensor)


@dataclass(frozen=True)
class NoisyBatch:
    r"""What a network is trained on.

    Attributes:
        x_t: The noisy points, with shape (B, \*).
        target: The regression targets, with shape (B, \*).
        weight: The weight of each datum in the loss, with shape (B,).
    """

    x_t: Tensor
    target: Tensor
    weight: Tensor


def flow(x: Tensor, noise: Tensor, t: Tensor) -> NoisyBatch:
    r"""The noisy point and its velocity on the straight path from noise to data.

    Arguments:
        x: The data, with shape (B, \*).
        noise: The coupled noise, with the shape of ``x``.
        t: The times in [0, 1], with shape (B,); 0 is noise, 1 is data.
    """
    at = per_row(t, x)
    return NoisyBatch((1 - at) * noise + at * x, x - noise, torch.ones_like(t))


def diffusion(
    x: Tensor, noise: Tensor, alpha_bar: Tensor, prediction: Literal["eps", "v", "x0"] = "eps", min_snr: float = 0.0
) -> NoisyBatch:
    r"""The noisy point of a diffusion and the target that its network learns.

    Arguments:
        x: The data, with shape (B, \*).
        noise: The coupled noise, with the shape of ``x``.
        alpha_bar: The share of the signal's variance, :math:`\bar\alpha_t` in [0, 1], with shape (B,).
        prediction: The target: the noise, the velocity or the data.
        min_snr: :math:`\gamma` of min-SNR weighting (arXiv 2303.09556), 0 for equal weights: the error in
            :math:`x_0` is weighted by :math:`\min(\mathrm{SNR}, \gamma)`, whatever is predicted.
    """
    signal, spread = per_row(alpha_bar.sqrt(), x), per_row((1 - alpha_bar).sqrt(), x)
    x_t = signal * x + spread * noise
    target = {"eps": noise, "v": signal * noise - spread * x, "x0": x}[prediction]
    weight = torch.ones_like(alpha_bar)
    if min_snr:
        snr = alpha_bar / (1 - alpha_bar)
        error_of_x0 = {"eps": snr, "v": snr + 1, "x0": weight}[prediction]
        weight = snr.clamp(max=min_snr) / error_of_x0
    return NoisyBatch(x_t, target, weight)


def noise_and_datum(
    output: Tensor, x_t: Tensor, alpha_bar: Tensor, prediction: Literal["eps", "v", "x0"]
) -> tuple[Tensor, Tensor]:
    r"""What a network of a diffusion takes a noisy point to be made of.

    Arguments:
        output: What the network gives, with shape (B, \*).
        x_t: The noisy points, with the same shape.
        alpha_bar: The share of the signal's variance, a scalar or with shape (B,); not 0 with ``eps``, not 1 with
            ``x0``.
        prediction: What the network was trained to give.

    Returns:
        The noise and the datum, with the shape of ``x_t``.
    """
    at = alpha_bar.expand(len(x_t))
    signal, spread = per_row(at.sqrt(), x_t), per_row((1 - at).sqrt(), x_t)
    match prediction:
        case "eps":
            return output, (x_t - spread * output) / signal
        case "v":
            return signal * output + spread * x_t, signal * x_t - spread * output
        case "x0":
            return (x_t - signal * output) / spread, output


def shifted_time(t: T, shift: float) -> T:
    """The time at which a flow has ``shift`` times the ratio of signal to noise that it has at ``t``; in [0, 1]."""
    return shift * t / (1 + (shift - 1) * t)


def shifted_alpha_bar(alpha_bar: Tensor, shift: float) -> Tensor:
    r""":math:`\bar\alpha` of a schedule with ``shift`` times the ratio of signal to noise, with the same shape."""
    return shift**2 * alpha_bar / (1 + (shift**2 - 1) * alpha_bar)


def pseudo_huber(prediction: Tensor, target: Tensor, c: float) -> Tensor:
    r"""The pseudo-Huber distance :math:`\sqrt{|a - b|^2 + c^2} - c` of each row (arXiv 2310.14189, section 3.3).

    Arguments:
        prediction: With shape (B, \*).
        target: With the same shape.
        c: Where it passes from quadratic to linear, positive.

    Returns:
        The distances in float32, with shape (B,).
    """
    squares = (prediction.float() - target.float()).square().flatten(1).sum(1)
    return (squares + c**2).sqrt() - c


def weighted_mse(prediction: Tensor, batch: NoisyBatch) -> Tensor:
    """The mean squared error over a batch, each datum with its weight; a scalar in float32."""
    errors = (prediction.float() - batch.target.float()).square().flatten(1).mean(1)
    return (errors * batch.weight).mean()
