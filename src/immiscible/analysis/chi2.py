r"""The survival function of the noncentral chi-square law, in logarithms, for whole tensors.

Of ``k`` candidates KNN takes the one at the least squared distance :math:`q = |z - n|^2`, which is noncentral
chi-square with :math:`D` degrees of freedom and noncentrality :math:`\lambda = |z|^2`. The density of the noise that
wins needs :math:`\log P(Q > q)`, far out in both tails, where summed series underflow.

With the cumulant generating function :math:`K(s) = \lambda s / (1 - 2s) - \tfrac{D}{2} \log(1 - 2s)` the saddlepoint,
:math:`K'(s) = q`, is the root of a quadratic, and

.. math:: P(Q > q) = \frac{1}{2\pi i} \int_{c - i\infty}^{c + i\infty} e^{K(s) - sq}\, \frac{ds}{s}, \qquad 0 < c < 1/2.

From 16 degrees on the expansion of Lugannani and Rice with its next term (Adv. Appl. Probab. 12, 1980; Daniels, Int.
Stat. Rev. 55, 1987) is right to 1e-4 six deviations out, to 3e-6 from 64 on. Below, the integral is taken along the
parabola of steepest descent, by the trapezoidal rule, right to 1e-6 and slowly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from immiscible.errors import InputError

# From here on the expansion is close enough.
EXPANDED_FROM = 16
# The expansion has a removable pole at the mean; within this many standard deviations of it a line is drawn.
NEAR = 2e-3
# Below this |2s| the second-order cancellation in w needs its series.
SMALL = 1e-2
# The trapezoidal rule: its step in standard deviations of the integrand at the saddle, and its number of steps.
STEP, STEPS = 0.2, 50
# The contour keeps off the pole at 0, in standard deviations of the law, and off the cut that begins at 1/2.
OFF_POLE, OFF_CUT = 0.5, 0.2
# How many values are worked on at once, so that they stay in the processor's cache.
AT_ONCE = 2**16


def log_survival(q: Tensor, dims: int, noncentrality: Tensor) -> Tensor:
    r"""The logarithm of the probability that a noncentral chi-square variable is above ``q``.

    Arguments:
        q: Where, positive, ``float64`` of any shape.
        dims: The degrees of freedom, at least 1.
        noncentrality: :math:`\lambda`, not negative, with a shape that broadcasts to that of ``q``.

    Returns:
        The logarithms, at most 0, with the broadcast shape.

    Raises:
        InputError: If ``dims`` is less than 1.

    Example:
        >>> log_survival(torch.tensor([2.0], dtype=torch.float64), 2, torch.zeros(1, dtype=torch.float64))
        tensor([-1.0000], dtype=torch.float64)
    """
    if dims < 1:
        raise InputError(f"`dims` must be at least 1, got {dims}.")
    q, noncentrality = torch.broadcast_tensors(q.clamp_min(torch.finfo(q.dtype).tiny), noncentrality)
    if q.numel() > AT_ONCE:
        parts = zip(q.flatten().split(AT_ONCE), noncentrality.flatten().split(AT_ONCE), strict=True)
        return torch.cat([log_survival(some, dims, shifts) for some, shifts in parts]).view(q.shape)
    if dims == 1:
        root, shift = q.sqrt(), noncentrality.sqrt()
        return torch.logaddexp(torch.special.log_ndtr(shift - root), torch.special.log_ndtr(-shift - root))
    # y = 1 - 2s at the saddlepoint.
    y = (dims + (dims**2 + 4 * q * noncentrality).sqrt()) / (2 * q)
    return _expansion(y, dims, noncentrality) if dims >= EXPANDED_FROM else _integral(q, y, dims, noncentrality)


def _expansion(y: Tensor, dims: int, noncentrality: Tensor) -> Tensor:
    """The expansion from y = 1 - 2s at the saddlepoint, and a line where that is next to its pole."""
    saddle, edge = (1 - y) / 2, NEAR / (2 * dims + 4 * noncentrality).sqrt()
    near = saddle.abs() < edge
    result = _lugannani_rice(torch.where(near, edge, saddle), dims, noncentrality)
    if near.any():
        below = _lugannani_rice(-edge[near], dims, noncentrality[near])
        share = (saddle[near] / edge[near] + 1) / 2
        result[near] = torch.lerp(below, result[near], share)
    return result.clamp_max(0)


def _lugannani_rice(saddle: Tensor, dims: int, noncentrality: Tensor) -> Tensor:
    """Lugannani and Rice's formula with its next term."""
    inverse = 1 / (1 - 2 * saddle)
    shift = noncentrality * inverse
    w = _root(saddle, dims, noncentrality)
    # The third and fourth cumulants over powers of the deviation; products, as torch's powers are slow.
    deviation = (4 * shift + 2 * dims).sqrt()
    over = 1 / deviation
    squared = over * over
    skew = (24 * shift + 8 * dims) * (squared * over)
    kurtosis = (192 * shift + 48 * dims) * (squared * squared)
    over_u, over_w = over / (saddle * inverse), 1 / w
    over_u2, over_w2 = over_u * over_u, over_w * over_w
    correction = over_u * (1 + kurtosis / 8 - skew * skew * (5 / 24) - over_u2 - skew * over_u / 2)
    correction += over_w * (over_w2 - 1)
    tail = torch.special.log_ndtr(-w)
    hazard = torch.exp(w * w / -2 - tail) / math.sqrt(2 * math.pi)
    return tail + torch.log1p(hazard * correction)


def _root(saddle: Tensor, dims: int, noncentrality: Tensor) -> Tensor:
    r"""The signed root :math:`w` of :math:`2 (sq - K(s))` at the saddlepoint, without cancellation."""
    tilt = saddle / (1 - 2 * saddle)
    squares = 4 * noncentrality * (tilt * tilt) + dims * _second_order(2 * saddle)
    return squares.sqrt().copysign(saddle)


def _second_order(e: Tensor) -> Tensor:
    """e / (1 - e) + log(1 - e) without the cancellation of its first order."""
    series = torch.full_like(e, 1 - 1 / 9)
    for n in range(8, 1, -1):
        series.mul_(e).add_(1 - 1 / n)
    series.mul_(e).mul_(e)
    return torch.where(e.abs() < SMALL, series, e / (1 - e) + torch.log1p(-e))


def _integral(q: Tensor, y: Tensor, dims: int, noncentrality: Tensor) -> Tensor:
    """The contour integral, of the upper tail where ``q`` is above the mean, of the lower one elsewhere."""
    deviation = (2 * dims + 4 * noncentrality).sqrt()
    upper = y < 1
    saddle = (1 - y) / 2
    off = OFF_POLE / deviation
    centre = torch.where(upper, saddle.maximum(off.clamp_max(OFF_CUT)), saddle.minimum(-2 * off))
    inverse = 1 / (1 - 2 * centre)
    k2 = (4 * noncentrality * inverse + 2 * dims) * inverse**2
    k3 = (24 * noncentrality * inverse + 8 * dims) * inverse**3
    bend = k3 / (6 * k2)

    def exponent(s: Tensor) -> Tensor:
        return noncentrality * s / (1 - 2 * s) - dims / 2 * torch.log(1 - 2 * s) - s * q

    top = exponent(centre)
    step = STEP / k2.sqrt()
    total = torch.zeros_like(q)
    for node in range(STEPS):
        height = node * step
        s = torch.complex(centre + bend * height**2, height)
        slope = torch.complex(2 * bend * height, torch.ones_like(height))
        value = (torch.exp(exponent(s) - top) / s * slope).imag
        total += value if node else value / 2
    log_tail = top + torch.log((total * step / math.pi).abs())
    return torch.where(upper, log_tail, torch.log1p(-log_tail.clamp_max(0).exp().clamp_max(1 - 1e-16)))
