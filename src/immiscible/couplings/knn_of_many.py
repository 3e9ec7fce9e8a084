r"""The nearest of very many Gaussian draws, drawn at once: KNN's winner in time that does not depend on ``k``.

The distance :math:`d = |x - n|` of one draw to a datum of length :math:`L = |x|` has the density

.. math:: f(d) = \frac{|S^{D-2}|}{(2\pi)^{D/2}}\, d^{D-1} e^{-(d^2 + L^2)/2}
    \int_0^\pi e^{\kappa \cos\varphi} \sin^{D-2}\varphi \, d\varphi, \qquad \kappa = L d,

with :math:`\varphi` the angle at the datum between the draw and the origin. With its distribution function :math:`F`
the least of :math:`m` distances is :math:`F^{-1}(q)` at :math:`q = 1 - (1 - U)^{1/m}`, and given the distance the
direction from the datum is von Mises-Fisher around :math:`-x` with concentration :math:`\kappa`, whose angle Wood's
rejection draws (Communications in Statistics 23, 1994). Both together are the law of the nearest draw, exactly.

:math:`F` is integrated by Gauss-Legendre quadrature, over logarithms, in float64. Where to integrate is known
beforehand: Gaussian isoperimetry has :math:`\Phi^{-1}(F(d))` grow at least as fast as :math:`d`, so all but a share of
:math:`10^{-13}` of :math:`F(d) = q` lies above :math:`d - \Phi^{-1}(q) + \Phi^{-1}(10^{-13} q)`. And since a Gaussian
measure of growing balls is log-concave in the radius, Newton's iteration on :math:`\log F` ends at the root from
wherever it starts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Nodes of the two integrals, over distance and angle: the error of F is far below float32's.
NODES, ANGLES = 24, 40
# The part of F that is left out, and how many standard deviations of the angle are looked at on each side.
LEFT_OUT = 1e-13
DEVIATIONS = 9.0
# Rows whose integrals are computed at once, which bounds memory.
ROWS_AT_ONCE = 32
# Newton's iteration ends when log F is this close.
CLOSE = 1e-7
MOST_ITERATIONS = 200
# From this length on the spheres around the datum are flat, and its square would drown what is compared.
FLAT_FROM = 1e6
# An exponential or uniform draw that is zero counts as this.
LEAST_EXPONENTIAL = 1e-12

Chi2 = Callable[[int, tuple[int, ...], torch.device, torch.Generator | None], Tensor]


def nearest_of_many(
    length: Tensor, dims: int, draws: float, chi2: Chi2, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""The nearest to each datum of that many normal draws, as its two scalars.

    Arguments:
        length: The norms of the data, with shape (B,).
        dims: The dimension D, at least 1.
        draws: How many draws the nearest is of.
        chi2: Draws chi-square variables: from the degrees of freedom, a shape, a device and a generator.
        generator: The source of randomness, on the device of ``length``.

    Returns:
        The component :math:`a` along the datum and the squared norm :math:`r^2` of what is orthogonal to it, each in
        float32 with shape (B,).
    """
    uniform = torch.empty(length.shape, device=length.device, dtype=torch.float32).exponential_(generator=generator)
    long = length.cpu().double().clamp_max(FLAT_FROM)
    quantile = -torch.expm1(uniform.cpu().double().clamp_min(LEAST_EXPONENTIAL) / -draws)
    parts = zip(long.split(ROWS_AT_ONCE), quantile.split(ROWS_AT_ONCE), strict=True)
    distance = torch.cat([inverse_cdf(part, some, dims) for some, part in parts])
    nearer = _one_minus_cosine(long * distance, dims, length.device, chi2, generator)
    axial = (long - distance) + distance * nearer
    radial = distance.square() * nearer * (2 - nearer)
    return axial.float().to(length.device), radial.float().to(length.device)


def inverse_cdf(quantile: Tensor, length: Tensor, dims: int) -> Tensor:
    r"""The distance at which :math:`F` is the quantile, in float64 on the CPU.

    Arguments:
        quantile: The quantiles, in (0, 1), with shape (n,).
        length: The lengths of the data, with shape (n,).
        dims: The dimension D, at least 1.
    """
    target = quantile.log()
    depth = torch.special.ndtri(quantile) - torch.special.ndtri(LEFT_OUT * quantile)
    distance = _guess(quantile, length, dims)
    for _ in range(MOST_ITERATIONS):
        log_f, log_density = log_cdf(distance, length, dims, depth)
        excess = log_f - target
        if excess.abs().max() < CLOSE:
            return distance
        # From below the root the step never passes it. From above it may, and then stays positive.
        step = excess * (log_f - log_density).exp()
        distance = torch.maximum(distance - step, distance / 8)
    raise ArithmeticError(f"no distance of the nearest draw was found for {dims} values and {length.tolist()}.")


def _guess(quantile: Tensor, length: Tensor, dims: int) -> Tensor:
    """A first distance: Sankaran's normal approximation of noncentral chi-square, or a small ball where that fails."""
    shift = length.square()
    total, spread = dims + shift, dims + 2 * shift
    h = 1 - 2 * total * (dims + 3 * shift) / (3 * spread.square())
    p = spread / total.square()
    m = (h - 1) * (1 - 3 * h)
    mean = 1 + h * p * (h - 1 - 0.5 * (2 - h) * m * p)
    deviation = h * (2 * p).sqrt() * (1 + 0.5 * m * p)
    normal = total * (mean + deviation * torch.special.ndtri(quantile)).clamp_min(0).pow(1 / h)
    log_ball = (quantile.log() + shift / 2 + math.lgamma(dims / 2 + 1)) / dims
    ball = (log_ball + 0.5 * math.log(2)).clamp_max(math.log(dims)).exp()
    return torch.where(normal > 0, normal.sqrt(), ball)


def _one_minus_cosine(
    kappa: Tensor, dims: int, device: torch.device, chi2: Chi2, generator: torch.Generator | None
) -> Tensor:
    r"""Draws :math:`1 - \cos\varphi` of von Mises-Fisher directions with these concentrations, in float64 on the CPU.

    Wood's proposal is :math:`2 b z / (1 - (1 - b) z)` with :math:`z` symmetrically beta, which is a uniform direction's
    :math:`(1 - \cos)/2`. About two in three are accepted at worst.
    """

    def uniform(count: int) -> Tensor:
        drawn = torch.rand(count, generator=generator, device=device, dtype=torch.float32)
        return drawn.cpu().double().clamp_min(LEAST_EXPONENTIAL)

    if dims == 1:
        return 2.0 * (uniform(len(kappa)) * (1 + torch.exp(-2 * kappa)) > 1)
    degrees = dims - 1
    b = degrees / (2 * kappa + (4 * kappa**2 + degrees**2).sqrt())
    # 1 - x0^2 with x0 = (1 - b) / (1 + b)
    x0, rest = (1 - b) / (1 + b), 4 * b / (1 + b) ** 2
    result, missing = torch.empty_like(kappa), torch.arange(len(kappa), device="cpu")
    while len(missing):
        shape = (len(missing),)
        first = torch.randn(shape, generator=generator, device=device, dtype=torch.float32).cpu().double()
        others = chi2(degrees, shape, device, generator).cpu().double()
        norm = (first**2 + others).sqrt()
        z = others / (2 * norm * (norm + first.abs()))
        z = torch.where(first > 0, z, 1 - z)
        some_b, some_x0, some_rest = b[missing], x0[missing], rest[missing]
        drawn = 2 * some_b * z / (1 - (1 - some_b) * z)
        # kappa (cos - x0) + (D - 1) log((1 - x0 cos) / (1 - x0^2)), written for cosines next to one.
        beyond = 2 * some_b / (1 + some_b) - drawn
        log_accept = kappa[missing] * beyond + degrees * torch.log1p(-some_x0 * beyond / some_rest)
        accepted = log_accept >= uniform(len(missing)).log()
        result[missing[accepted]] = drawn[accepted]
        missing = missing[~accepted]
    return result


def log_cdf(distance: Tensor, length: Tensor, dims: int, depth: Tensor) -> tuple[Tensor, Tensor]:
    r"""The logarithms of :math:`F` and of the density of the distance, each with shape (n,), in float64.

    Arguments:
        distance: The distances, with shape (n,).
        length: The lengths of the data, with shape (n,).
        dims: The dimension D, at least 1.
        depth: How far below each distance the integral begins, with shape (n,).
    """
    nodes, weights = _legendre(NODES)
    low = (distance - depth).clamp_min(0)
    half = ((distance - low) / 2)[:, None]
    inner = torch.cat([low[:, None] + half * (1 + nodes), distance[:, None]], 1)
    values = _log_density(inner, length[:, None], dims)
    return (values[:, :-1] + weights.log()).logsumexp(1) + half[:, 0].log(), values[:, -1]


def _log_density(distance: Tensor, length: Tensor, dims: int) -> Tensor:
    """The logarithm of the density of the distance, with the shape of ``distance``."""
    kappa = length * distance
    radial = -0.5 * (distance - length) ** 2 - 0.5 * math.log(2 * math.pi)
    if dims == 1:
        return radial + torch.log1p(torch.exp(-2 * kappa))
    # |S^(D-2)| / (2 pi)^((D-1)/2)
    constant = math.log(2) - (dims - 1) / 2 * math.log(2) - math.lgamma((dims - 1) / 2)
    return radial + constant + (dims - 1) * distance.log() + _log_angles(kappa, dims)


def _log_angles(kappa: Tensor, dims: int) -> Tensor:
    r"""The logarithm of :math:`\int e^{-\kappa (1 - \cos\varphi)} \sin^{D-2}\varphi\,d\varphi`."""
    nodes, weights = _legendre(ANGLES)
    mode, deviation = _peak(kappa, dims)
    low = (mode - DEVIATIONS * deviation).clamp_min(0)
    half = ((mode + DEVIATIONS * deviation).clamp_max(math.pi) - low) / 2
    angle = low[..., None] + half[..., None] * (1 + nodes)
    log = (angle / 2).sin_().square_().mul_(-2 * kappa[..., None])
    if dims > 2:
        log.add_(angle.sin_().log_(), alpha=dims - 2)
    return log.add_(weights.log()).logsumexp(-1) + half.log()


def _peak(kappa: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Where the integrand over the angle is largest, and its width there as that of a Gaussian."""
    power = dims - 2
    # cos solves kappa (1 - cos^2) = power cos, and sin^2 = power cos / kappa.
    cosine = 2 * kappa / (power + (power**2 + 4 * kappa**2).sqrt()).clamp_min(1e-300)
    sine2 = 2 * power / (power + (power**2 + 4 * kappa**2).sqrt()).clamp_min(1e-300)
    mode = torch.atan2(sine2.sqrt(), cosine)
    curvature = kappa * cosine + (power / sine2.clamp_min(1e-300) if power else 0)
    return mode, curvature.clamp_min(1e-6).rsqrt()


@functools.cache
def _legendre(count: int) -> tuple[Tensor, Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy(nodes), torch.from_numpy(weights)
