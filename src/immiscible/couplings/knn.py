r"""KNN coupling: each datum takes the nearest of ``k`` Gaussian draws, without drawing the candidates.

The published rule (Improved Immiscible Diffusion, arXiv 2505.18521) draws a ``[B, k, D]`` tensor of candidates and
keeps the nearest. But with :math:`u = x/|x|` any candidate is

.. math:: n = a\,u + r\,w, \qquad a \sim N(0, 1), \quad r^2 \sim \chi^2_{D-1},

with :math:`w` uniform on the unit sphere orthogonal to :math:`u`, all three independent, and

.. math:: |x - n|^2 = |x|^2 + \left(a^2 + r^2 - 2|x|a\right)

depends on the two scalars only. So ``k`` scalar pairs are compared and a single tensor is built: the noise handed in
is the first candidate, and where another pair wins, its axial part is set to that pair's :math:`a` and its orthogonal
part rescaled to that pair's :math:`r`. The law is that of the published search, exactly. Of tens of pairs only those
that lead are drawn (:mod:`immiscible.couplings.knn_leading`), and of thousands only the best
(:mod:`immiscible.couplings.knn_of_many`).

:math:`\chi^2_d` is drawn by Marsaglia and Tsang's method (ACM TOMS 26, 2000), vectorised: for
:math:`\delta = d/2 - 1/3` and :math:`z \sim N(0, 1)` the proposal :math:`2\delta\,(1 + z/\sqrt{9\delta})^3` is accepted
with probability :math:`e^{-\tau}`, :math:`\tau = 3\delta\,(y - y^2/2 + y^3/3 - \log(1 + y))` with
:math:`y = z/\sqrt{9\delta}`, which is all but one for the dimensions of images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from immiscible.couplings.knn_leading import nearest_of_some
from immiscible.couplings.knn_of_many import nearest_of_many
from immiscible.couplings.protocol import (
    check_inputs,
    eager,
    finite_norms,
    full_float32,
    note_unless_normal,
    per_row,
    row_dims,
    rows,
)
from immiscible.errors import InputError

Score = Literal["l2", "dot"]

# Below this norm a datum has no direction that float32 scores could see.
NO_DIRECTION = 1e-12
# Fewer degrees of freedom than these are drawn as sums of squares. From here on no float32 normal comes near the pole
# of tau.
FEW_DEGREES = 34
# Scalars drawn at once: at most this many, or a quarter of the noise where that is more, which bounds memory in k.
SCALARS_AT_ONCE = 2**13
# From the first to the second number of candidates those that lead are drawn, without the others.
LEADERS_FROM, LEADERS_TO = 16, 256
# From this many candidates on the best is drawn without the others, which takes as long as these.
ONE_DRAW_FROM = 4096
# Above this many float64 hardly tells k from k - 1.
MOST = 1e15
# Inputs of another dtype are converted to float32 in this many pieces.
COLUMN_CHUNKS = 8


@dataclass(frozen=True)
class KNN:
    r"""Gives each datum the nearest of ``k`` Gaussian draws, in time that hardly grows with ``k``.

    Source: KNN coupling of arXiv 2505.18521; the exact law without candidates is this package's.

    The noise must be standard normal, since parts of it are drawn again. Of other noise, such as a second data set,
    it makes a mixture; what its mean square gives away is logged once.

    Arguments:
        k: The number of candidates, from 1, where it changes nothing, to 1e15. Whole for ``l2``, any real for ``dot``.
        score: What "nearest" means: the Euclidean distance (``l2``, as published) or the scalar product (``dot``).

    Example:
        >>> x = torch.randn(4, 3, 8, 8)
        >>> noise = KNN(k=8)(x, torch.randn_like(x))
    """

    moves: ClassVar[str] = 'the axial part of each noise along its datum, and the length of the rest (score="l2").'
    law: ClassVar[str] = (
        "biased: l2 shrinks E|n|^2/D (by 2-3 % at D = 3072, by 11 % at D = 64, for k = 4), dot keeps it; both "
        "shift the mean towards the mean of the data and stretch its leading components."
    )
    cost: ClassVar[str] = (
        "O(B (D + k)) time, and from k = 4096 on no more at any k; about two tensors of the size of x in memory, "
        "or a megabyte where that is more."
    )

    k: float
    score: Score = "l2"

    def __post_init__(self) -> None:
        number = isinstance(self.k, int | float) and not isinstance(self.k, bool)
        if not number or not 1 <= self.k < math.inf:
            raise InputError(f"`k` must be a finite number of at least 1, got {self.k!r}.")
        if self.k > MOST:
            raise InputError(f"`k` must be at most 1e15, got {self.k:g}: float64 does not tell larger ones apart.")
        if not isinstance(self.score, str) or self.score not in ("l2", "dot"):
            raise InputError(f"`score` must be one of 'l2', 'dot', got {self.score!r}.")
        if self.score == "l2" and self.k != int(self.k):
            raise InputError(f"`k` must be whole for score 'l2', got {self.k!r}: only 'dot' takes a real `k`.")

    @eager
    def __call__(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Couples, see :class:`~immiscible.couplings.protocol.Coupling`. Labels are checked and ignored."""
        check_inputs(x, noise, labels, generator)
        with full_float32(x.device):
            length, noise_length = finite_norms(x, noise)
            if self.k == 1:
                return noise.detach()
            note_unless_normal(noise_length, noise.numel() // len(noise), str(self))
            if noise.ndim == 1:
                return self._couple(x[:, None], noise[:, None], length, noise_length, generator)[:, 0]
            return self._couple(x, noise, length, noise_length, generator)

    def _couple(
        self, x: Tensor, noise: Tensor, length: Tensor, noise_length: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """The coupled noise for k > 1, from the norms of the rows of both, each with shape (B,)."""
        undirected = length < NO_DIRECTION if length.min().item() < NO_DIRECTION else None
        if undirected is not None:
            x, length = x * per_row(~undirected, x), length.clamp_min(NO_DIRECTION)
        dots, buffer = _row_dots(x, noise)
        axial = dots / length
        if self.score == "dot":
            best, stretch = _best_axial(axial, self.k, generator), torch.ones_like(axial)
        else:
            dims = noise[0].numel()
            radial = noise_length.square_().addcmul_(axial, axial, value=-1).clamp_min_(0)
            best, best_radial = _best_pair(length, axial, radial, dims, int(self.k), generator)
            if undirected is not None:
                # Where nothing is split off, the whole noise takes the length of the best pair.
                best_radial = best_radial.where(~undirected, best**2 + best_radial)
            # Nothing, or by rounding nothing, beside the axis: nothing to stretch.
            stretch = (best_radial / radial).sqrt_().nan_to_num_(nan=1, posinf=1)
        step = (best - stretch * axial) / length
        return _combine(stretch, noise, step, x, buffer)

    def __str__(self) -> str:
        k = int(self.k) if self.k == int(self.k) else self.k
        return f"knn:{k}" + (":dot" if self.score == "dot" else "")


def _best_pair(
    length: Tensor, axial: Tensor, radial: Tensor, dims: int, k: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """The best of ``k`` pairs per row: the given one, and others drawn in chunks that the best so far leads."""
    if k >= ONE_DRAW_FROM:
        others = nearest_of_many(length, dims, k - 1, draw_chi2, generator)
        return _better(length, (axial, radial), others)
    if LEADERS_FROM <= k <= LEADERS_TO and dims > FEW_DEGREES:
        return _better(length, (axial, radial), nearest_of_some(length, dims, k - 1, generator))
    batch = len(length)
    chunk = max(2, max(SCALARS_AT_ONCE, batch * dims // 4) // batch)
    while k > 1:
        count = min(k, chunk)
        axial, radial = _best_of(count, length, axial, radial, dims, generator)
        k -= count - 1
    return axial, radial


def _best_of(
    count: int, length: Tensor, axial: Tensor, radial: Tensor, dims: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """The pair of least :math:`a^2 + r^2 - 2|x|a` per row among the given one and ``count - 1`` drawn here."""
    shape = (len(length), count)
    a = torch.randn(shape, generator=generator, device=length.device, dtype=torch.float32)
    r2 = draw_chi2(dims - 1, shape, length.device, generator)
    a[:, 0], r2[:, 0] = axial, radial
    score = a - 2 * length[:, None]
    winner = torch.addcmul(r2, a, score, out=score).argmin(1, keepdim=True)
    return a.gather(1, winner)[:, 0], r2.gather(1, winner)[:, 0]


def _better(length: Tensor, *pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The better of two pairs per row."""
    (a, r2), (other_a, other_r2) = pairs
    # The difference of the scores, without the square of the length, which would drown it.
    other = (other_a - a) * (other_a + a - 2 * length) + (other_r2 - r2) < 0
    return other_a.where(other, a), other_r2.where(other, r2)


def draw_chi2(
    degrees: int, shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    r"""Draws :math:`\chi^2` variables in float32, several times faster than gamma sampling one by one.

    Arguments:
        degrees: The degrees of freedom, at least 0.
        shape: The shape of the result.
        device: Where to draw, also the device of the generator.
        generator: The source of randomness.
    """
    if degrees < FEW_DEGREES:
        total = torch.zeros(shape, device=device, dtype=torch.float32)
        for _ in range(degrees):
            normal = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
            total.addcmul_(normal, normal)
        return total
    delta = degrees / 2 - 1 / 3
    z = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
    rejected = _rejected(z.view(-1), delta, generator)
    root = (2 * delta) ** (1 / 3)
    draws = z.mul_(root * (9 * delta) ** -0.5).add_(root).pow_(3)
    if len(rejected):
        # One in about 18 d proposals is rejected, so new ones by the definition take few normals, though d each.
        normals = torch.randn(len(rejected), degrees, generator=generator, device=device, dtype=torch.float32)
        draws.view(-1)[rejected] = normals.square_().sum(1)
    return draws


def _rejected(z: Tensor, delta: float, generator: torch.Generator | None) -> Tensor:
    r"""The indices of the proposals to reject, each with its own chance :math:`1 - e^{-\tau}`; some may stand twice.

    A draw for each would cost as much as the proposals. But :math:`1 - e^{-\tau}` is also the chance that a Poisson
    process of rate one puts a point into an interval of length :math:`\tau`. So a few points are drawn over all
    intervals at once, each lengthened to the longest, and a proposal is rejected if a point falls into its own part.
    """
    scale = (9 * delta) ** -0.5
    low, high = z.aminmax()
    longest = _tau(-scale * max(-low.item(), high.item()), delta)
    # Rounding may take the chance of a proposal next to the mean below zero.
    count = int(torch.poisson(z.new_tensor(max(0.0, longest) * len(z)), generator=generator))
    hit = torch.randint(len(z), (count,), generator=generator, device=z.device)
    if count == 0:
        return hit
    height = longest * torch.rand(count, generator=generator, device=z.device, dtype=z.dtype).cpu().numpy()
    below = height < _tau(scale * z.index_select(0, hit).cpu().numpy().astype(np.float64), delta)
    return hit[torch.from_numpy(below).to(z.device)]


def _tau(y: Any, delta: float) -> Any:
    r"""Minus the logarithm of the chance of acceptance. It grows with :math:`|y|`, and faster below zero."""
    return 3 * delta * (y * (1 - y * (0.5 - y / 3)) - np.log1p(y))


def _best_axial(axial: Tensor, k: float, generator: torch.Generator | None) -> Tensor:
    r"""The largest of ``k`` normals, the given one included: the others' maximum is :math:`\Phi^{-1}(U^{1/(k-1)})`.

    Written with the upper tail, :math:`1 - U^{1/(k-1)}`, which stays accurate in float32 where ``k`` is large.
    """
    uniform = torch.rand(axial.shape, generator=generator, device=axial.device, dtype=axial.dtype)
    upper = -torch.expm1(uniform.log() / (k - 1))
    others = -torch.special.ndtri(upper.clamp_min(torch.finfo(torch.float32).tiny))
    return torch.maximum(axial, others)


def _row_dots(x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor | None]:
    """Scalar products of the rows in float32, with shape (B,), and the memory of the products if it fits the result.

    A fresh tensor costs as much as several passes over it (the system clears its pages), so there is only one.
    """
    if noise.dtype == x.dtype == torch.float32:
        products = x * noise
        return products.sum(row_dims(products)), products
    return torch.stack([torch.linalg.vecdot(a, b) for _, a, b in _float_columns(x, noise)]).sum(0), None


def _combine(stretch: Tensor, noise: Tensor, step: Tensor, x: Tensor, out: Tensor | None) -> Tensor:
    """``stretch * noise + step * x`` with one value per row; a row with stretch 1 and step 0 keeps its values."""
    if out is not None:
        torch.mul(noise, per_row(stretch, noise), out=out)
        return out.addcmul_(x, per_row(step, x))
    result = torch.empty(rows(noise).shape, dtype=noise.dtype, device=noise.device)
    for columns, some_x, some_noise in _float_columns(x, noise):
        result[:, columns] = some_noise.mul_(stretch[:, None]).addcmul_(some_x, step[:, None])
    return result.view(noise.shape)


def _float_columns(x: Tensor, noise: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Copies of both inputs as float32 matrices, some columns at a time: whole copies would double the memory."""
    flat_x, flat_noise = rows(x), rows(noise)
    width = max(1, -(-flat_x.shape[1] // COLUMN_CHUNKS))
    for start in range(0, flat_x.shape[1], width):
        columns = slice(start, start + width)
        some_x, some_noise = (flat[:, columns].to(torch.float32, copy=True) for flat in (flat_x, flat_noise))
        yield columns, some_x, some_noise
