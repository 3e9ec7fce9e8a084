r"""The law of the noise that a datum gets, as a density against N(0, I).

Every coupling here gives a datum :math:`x` noise of density :math:`p(n|x) = \varphi(n)\, w(n, x)`. The ratio :math:`w`
is 1 for independent noise,

.. math:: w = k\,(1 - F(|z - n|^2))^{k-1} \quad\text{or}\quad w = k\,\Phi(\langle z, n\rangle/|z|)^{k-1}

for KNN by distance or by scalar product, with :math:`z` the datum as it is ranked and :math:`F` the noncentral
chi-square distribution. A coupling in a coarse space sees the projection of the noise only, and so does its
:math:`w`. Of couplings that are mixed the ratios are mixed. For assignments see :mod:`immiscible.analysis.plan`.

At the noisy point :math:`x_t = \alpha x_j + \sigma n_j` the noise of another datum would be
:math:`n_i = n_j + \rho\,(x_j - x_i)` with :math:`\rho = \alpha/\sigma`, so the scores and squares that ratios depend
on are polynomials in :math:`\rho`, and their coefficients are a few matrix products for all times together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from immiscible.analysis.chi2 import log_survival
from immiscible.couplings import KNN, Coupling, Independent, InSpace, LinearAssignment, Mixed
from immiscible.couplings.spaces import Raw, Space
from immiscible.errors import InputError


@dataclass(frozen=True)
class Seen:
    """Data or noise in the space of a ranking, flat, in float64.

    Attributes:
        ranked: The data as they are ranked, z, with shape (B, d).
        plain: Their projection without shift and scale, which is what they add to noise, with shape (B, d).
    """

    ranked: Tensor
    plain: Tensor

    @classmethod
    def through(cls, space: Space, x: Tensor) -> Seen:
        r"""Looks at data with shape (B, \*)."""
        ranked, plain = space.ranked(x), space.coarse(x)
        first = plain.flatten(1).double()
        return cls(first if ranked is plain else ranked.flatten(1).double(), first)


class Once:
    """Keeps what laws need again and again."""

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}

    def once(self, key: object, make: Callable[[], Any]) -> Any:
        """What is made when it is first asked for, and kept under a key of one's own."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


class Points(Once):
    """Noisy points in the space of a ranking: the data that they are of, and the noise.

    Arguments:
        data: The data of the points.
        noise: The noise of the points, with shape (P, d).
    """

    def __init__(self, data: Seen, noise: Tensor) -> None:
        super().__init__()
        self.data, self.noise = data, noise


class Pencil(Once):
    """The scores <z_i, n_i> and squares |n_i|^2 of some data at all points, at any ratio of signal to noise.

    Arguments:
        data: The data.
        points: The points.
        same: The pencil of a space in which data and points are as large as here, which has the same squares.
    """

    def __init__(self, data: Seen, points: Points, same: Pencil | None = None) -> None:
        super().__init__()
        self.data, self.points = data, points
        self.score = data.ranked @ points.noise.T
        self.score_slope = data.ranked @ points.data.plain.T - (data.ranked * data.plain).sum(1)[:, None]
        if same is not None:
            self.square, self.square_slope, self.curvature = same.square, same.square_slope, same.curvature
            return
        shared = data.ranked is data.plain
        self.square = points.noise.square().sum(1)
        own = (points.noise * points.data.plain).sum(1)
        self.square_slope = 2 * (own - (self.score if shared else data.plain @ points.noise.T))
        cross = self.score_slope if shared else data.plain @ points.data.plain.T
        norms = data.plain.square().sum(1)[:, None]
        cross = cross + norms if shared else cross
        self.curvature = (points.data.plain.square().sum(1) + norms - 2 * cross).clamp_min(0)

    def scores(self, ratio: float) -> Tensor:
        """With shape (B, P)."""
        return torch.add(self.score, self.score_slope, alpha=ratio)

    def squares(self, ratio: float) -> Tensor:
        """With shape (B, P)."""
        return torch.add(self.square_slope, self.curvature, alpha=ratio).mul_(ratio).add_(self.square)


class Law(Protocol):
    """The noise of a datum, as a ratio to standard normal noise, in one space."""

    @property
    def space(self) -> Space: ...

    @property
    def bound(self) -> float:
        """What the logarithm of the ratio never exceeds."""
        ...

    def log_ratio(self, pencil: Pencil, index: Tensor, ratio: float, live: Tensor) -> Tensor:
        """The logarithm of the ratio.

        Arguments:
            pencil: The data and the points in the space of this law.
            index: Which data they are, with shape (B,).
            ratio: Signal to noise, rho.
            live: Which pairs are asked for, with shape (B, P).

        Returns:
            The logarithms where they are asked for, in their order.
        """
        ...


@dataclass(frozen=True)
class NearestLaw:
    """That of KNN: closed, exact."""

    coupling: KNN
    space: Space

    @property
    def bound(self) -> float:
        return math.log(self.coupling.k)

    def log_ratio(self, pencil: Pencil, index: Tensor, ratio: float, live: Tensor) -> Tensor:
        """See :class:`Law`."""
        k, ranked = self.coupling.k, pencil.data.ranked
        squares = ranked.square().sum(1)[:, None].expand(live.shape)[live]
        scores = pencil.scores(ratio)[live]
        if self.coupling.score == "dot":
            tail = torch.special.log_ndtr(scores / squares.sqrt().clamp_min(1e-300))
            # A datum without a direction ranks along another one, which says nothing of others.
            return torch.where(squares > 0, math.log(k) + (k - 1) * tail, 0)
        distances = squares - 2 * scores + pencil.squares(ratio)[live]
        return math.log(k) + (k - 1) * log_survival(distances, ranked.shape[1], squares)


@dataclass(frozen=True)
class Part:
    """A coupling that is taken in a share of the cases, without wrappers.

    Attributes:
        share: How often it is taken, in [0, 1].
        coupling: KNN, an assignment or independent.
        space: What it ranks in.
    """

    share: float
    coupling: Coupling
    space: Space


def parts(coupling: Coupling) -> list[Part]:
    """What a coupling is a mixture of.

    Raises:
        InputError: If it is none whose law is known.
    """
    share, space = 1.0, None
    inner = coupling
    while isinstance(inner, Mixed | InSpace):
        if isinstance(inner, Mixed):
            share *= inner.p
        elif space is not None:
            raise InputError("a coupling must rank in at most one space to be analysed, got one space in another.")
        else:
            space = inner.space
        inner = inner.coupling
    known = isinstance(inner, KNN | LinearAssignment)
    if not known and not isinstance(inner, Independent):
        name = getattr(inner, "__name__", str(inner))
        raise InputError(f"the law of a coupling must be known: independent, knn or assignment, got {name}.")
    trivial = not known or not share or (isinstance(inner, KNN) and inner.k == 1)
    if trivial:
        return [Part(1.0, Independent(), Raw())]
    found = [Part(share, inner, space or Raw())]
    return found if share == 1 else [*found, Part(1 - share, Independent(), Raw())]
