r"""The nearest of tens to thousands of Gaussian draws, found among the few that lead, without drawing the others.

The nearest of the candidates has the least :math:`s = a^2 - 2|x|a + r^2`, see :mod:`immiscible.couplings.knn`. Write
:math:`r^2 = Q(z)` with a normal :math:`z` and the quantile function :math:`Q` of :math:`\chi^2_{D-1}`. Then :math:`s`
is a convex function of two independent normals, and so are their turned coordinates

.. math:: w = \alpha a - \beta z, \qquad v = \beta a + \alpha z, \qquad (\alpha, \beta) \propto (2|x|, Q'(0)),

of which :math:`w` points to where :math:`s` falls. The largest :math:`w` of all candidates are drawn as order
statistics of uniform numbers, :math:`U_{(1)} = V_1^{1/m}`, :math:`U_{(i+1)} = U_{(i)} V_{i+1}^{1/(m-i)}`, and each has
a :math:`v` of its own. The slope of :math:`s` at the origin is along :math:`w`, and its curvature is :math:`\kappa` at
least, so that :math:`s \ge s_0 - g w + \kappa w^2 / 2` everywhere. Where the best of the leaders is below that at the
last of them, it is the best of all. Where it is not, which is rare, the others are drawn too, given that their
:math:`w` is less. The law is that of the search, exactly.

The cube root of :math:`Q` is nearly a straight line (Wilson and Hilferty, PNAS 17, 1931). A polynomial of low degree
gives it to the precision of float32, for all dimensions that are asked for here.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

# How many of the draws are looked at first.
LEADERS = 6
# The polynomial: its largest degree, up to how many standard deviations it is fitted and at how many points, and how
# close it must be.
DEGREE, REACH, NODES, CLOSE = 8, 6.5, 33, 3e-8
BISECTIONS = 70


def nearest_of_some(
    length: Tensor, dims: int, draws: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""The nearest to each datum of that many normal draws, as its two scalars.

    Arguments:
        length: The norms of the data, ``float32`` with shape (B,).
        dims: The dimension D, at least 35.
        draws: How many draws the nearest is of, more than the leaders.
        generator: The source of randomness, on the device of ``length``.

    Returns:
        The component :math:`a` along the datum and the squared norm :math:`r^2` of what is orthogonal to it, each in
        float32 with shape (B,).
    """
    root = cube_root(dims - 1)
    plane = _Plane(2 * length[:, None], root)
    tails, w = _leaders(len(length), draws, length.device, generator)
    score, a, r2 = plane.best(w, generator)
    behind = (score > plane.above(w[:, -1:])).view(-1).nonzero()[:, 0]
    if len(behind):
        # Their w is less than that of the last leader.
        uniform = torch.rand((len(behind), draws - LEADERS), generator=generator, device=length.device)
        uniform *= 1 - tails[behind, -1:]
        others = torch.special.ndtri(uniform.clamp_min_(torch.finfo(uniform.dtype).tiny))
        some, some_a, some_r2 = _Plane(2 * length[behind, None], root).best(others, generator)
        better = some < score[behind]
        a[behind] = torch.where(better, some_a, a[behind])
        r2[behind] = torch.where(better, some_r2, r2[behind])
    return a[:, 0], r2[:, 0]


def _leaders(count: int, draws: int, device: torch.device, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The upper tails of the largest of some uniform numbers, and the normals that these stand for, descending.

    Each with shape (B, LEADERS). Tails stay accurate where the uniform numbers themselves are next to one.
    """
    tiny = torch.finfo(torch.float32).tiny
    logs = torch.rand((count, LEADERS), generator=generator, device=device, dtype=torch.float32).clamp_min_(tiny).log_()
    logs /= _remaining(draws, device)
    tails = logs.cumsum_(1).expm1_().neg_()
    # Several times faster than the quantile function of the tails, and in float64 as accurate.
    wide = tails.clamp_min(2**-24) if device.type == "mps" else tails.double().clamp_min_(2**-50)
    return tails, (1 - 2 * wide).erfinv_().mul_(2**0.5).float()


def _remaining(draws: int, device: torch.device) -> Tensor:
    return torch.arange(draws, draws - LEADERS, -1, device=device, dtype=torch.float32)


class _Plane:
    r"""The plane of the two normals, turned for each datum.

    Arguments:
        twice: Twice the norms of the data, with shape (B, 1).
        root: The polynomial of :func:`cube_root`.
    """

    def __init__(self, twice: Tensor, root: tuple[float, ...]) -> None:
        self.twice, self.root = twice, root
        slope = 3 * root[0] ** 2 * root[1]
        self.steep = torch.hypot(twice, twice.new_tensor(slope))
        self.alpha, self.beta = twice / self.steep, slope / self.steep

    def best(self, w: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        r"""The best of candidates whose :math:`w` are given, with shape (B, n): score, :math:`a` and :math:`r^2`.

        Each with shape (B, 1).
        """
        v = torch.randn(w.shape, generator=generator, device=w.device, dtype=w.dtype)
        a = (self.alpha * w).addcmul_(self.beta, v)
        r2 = _polynomial((self.alpha * v).addcmul_(self.beta, w, value=-1), self.root).pow_(3)
        score, winner = torch.addcmul(r2, a, a - self.twice).min(1, keepdim=True)
        return score, a.gather(1, winner), r2.gather(1, winner)

    def above(self, w: Tensor) -> Tensor:
        """What no score is below where :math:`w` is that much at most, with shape (B, 1)."""
        return w.mul(curvature(self.root) / 2).sub_(self.steep).mul_(w).add_(self.root[0] ** 3)


def _polynomial(z: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """A polynomial by Horner's rule, a fresh tensor."""
    result = z * coefficients[-1]
    for coefficient in reversed(coefficients[1:-1]):
        result.add_(coefficient).mul_(z)
    return result.add_(coefficients[0])


@functools.cache
def curvature(root: tuple[float, ...]) -> float:
    r"""The least second derivative of the score along any direction, for all that float32 normals reach."""
    cube = np.polynomial.Polynomial(root) ** 3
    return min(2.0, float(cube.deriv(2)(np.linspace(-REACH, REACH, NODES)).min()))


@functools.cache
def cube_root(degrees: int) -> tuple[float, ...]:
    r"""The polynomial in :math:`z` that is the cube root of the quantile of :math:`\chi^2` at :math:`\Phi(z)`.

    Arguments:
        degrees: The degrees of freedom, at least 34.

    Returns:
        Its coefficients, from the constant on.
    """
    nodes = REACH * torch.cos(math.pi * (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES)
    upper, tail, half = nodes > 0, torch.special.ndtr(-nodes.abs()), torch.full_like(nodes, degrees / 2)
    low, high = torch.zeros_like(nodes), torch.full_like(nodes, degrees + 20 * math.sqrt(2 * degrees) + 300)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        beyond = torch.where(upper, torch.special.gammaincc(half, middle / 2), torch.special.gammainc(half, middle / 2))
        more = torch.where(upper, beyond > tail, beyond < tail)
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    z, values = nodes.numpy(), low.numpy() ** (1 / 3)
    every = [np.polynomial.Chebyshev.fit(z, values, degree, domain=[-REACH, REACH]) for degree in range(1, DEGREE + 1)]
    close = (fitted for fitted in every if np.abs(fitted(z) / values - 1).max() < CLOSE)
    return tuple(next(close, every[-1]).convert(kind=np.polynomial.Polynomial).coef.tolist())
