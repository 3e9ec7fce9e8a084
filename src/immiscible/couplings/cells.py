r"""Cells: the data are sorted into a few groups, and each group has a part of the noise to itself.

Along the leading :math:`r` principal components :math:`P` the data have :math:`K` centres, and normal space is cut into
a cell for each, of as much mass as the centre has data (:mod:`immiscible.couplings.laguerre`). A datum of the group
:math:`j` takes a coarse part :math:`u` that is normal within the cell :math:`L_j`, and the rest of its own noise:

.. math:: n' = n + P^\top (u - P n), \qquad u \sim N(0, I_r \mid u \in L_j) .

Over the data :math:`u` is normal again, since the cells have the mass of their groups and cover everything; the fine
part is as it was drawn, and independent of it. So the law of the noise is exact up to the fit, which :math:`\chi^2`
measures. :math:`K` is a dial: one cell is independent noise, and a cell for each datum would be semidiscrete optimal
transport. Once fitted there is no state and nothing to solve, and batches of any size, on any number of processes, are
paired in the same way. With labels each class has potentials of its own, and the noise of each class is as exact.

:math:`u` is drawn by rejection: the coarse parts of a batch's own noise, and then more normal draws, are handed to
the data of the cell that they fall into, until all have one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

import torch
from torch import Tensor

from immiscible import seeds
from immiscible.couplings.classes import NO_CLASS, kinds_of
from immiscible.couplings.fitting import Coded, Loader, check_count, check_fitted, coded, with_part
from immiscible.couplings.laguerre import ascend, centres_of, chi_square, largest_of, nearest_of
from immiscible.couplings.protocol import check_inputs, eager, finite_norms, full_float32, note_unless_normal, rows
from immiscible.errors import InputError

RANK = 16
# More cells than these take hours to fit, and so do more axes.
MOST, MOST_AXES = 2**16, 2**12
# No more data than these are looked at.
AT_MOST = 2**18
# How many draws are tried at first for each datum that has none, and how many scores are in memory at most.
TRIES, SCORES = 4, 2**22
# Into a cell of the mass of one datum in millions some of these fall.
MOST_DRAWN = 2**28


@dataclass(frozen=True, eq=False)
class FittedCells:
    """Cells as they are fitted to data.

    Attributes:
        basis: The components that they lie in as orthonormal rows, with shape (r, D).
        offset: The mean of the data in them, with shape (r,).
        centres: The centre of each, with shape (K, r).
        weights: The share of the data in each, of each class or of all, with shape (C, K).
        potentials: The potential of each, with shape (C, K); minus infinity where a class has no data.
        classes: The labels of the classes in ascending order, with shape (C,); without labels a number that is none.
        chi2: How far the mass of the cells is from their weights, of the class where it is farthest; 1 is chance.
    """

    basis: Tensor
    offset: Tensor
    centres: Tensor
    weights: Tensor
    potentials: Tensor
    classes: Tensor
    chi2: float

    def to(self, device: torch.device | str) -> FittedCells:
        """The same cells on a device."""
        return FittedCells.of({name: value.to(device) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that they are made of, by name."""
        parts = [part.name for part in fields(self) if part.name != "chi2"]
        chi2 = torch.tensor(self.chi2, dtype=torch.float64, device="cpu")
        return {name: getattr(self, name) for name in parts} | {"chi2": chi2}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> FittedCells:
        """Cells that were kept as :meth:`tensors`."""
        parts = dict(tensors)
        return FittedCells(chi2=parts.pop("chi2").item(), **parts)

    def said(self) -> str:
        """How well they fit, in one line."""
        classes, count = len(self.classes), f"{len(self.centres)} cells along {len(self.basis)} principal components"
        within = f"in each of {classes} classes; the farthest has" if classes > 1 else "have"
        return f"{count} {within} a chi^2 of {self.chi2:.2f}, of which chance gives 1."

    @torch.no_grad()
    def draw(self, x: Tensor, noise: Tensor, kinds: Tensor, generator: torch.Generator | None) -> Tensor:
        r"""Noise whose coarse part is normal within the cell of each datum.

        Arguments:
            x: The data, ``float32`` with shape (B, \*).
            noise: Their noise, with the shape of ``x``.
            kinds: The number of the class of each, with shape (B,).
            generator: Draws more coarse parts, where those of the noise are not enough.
        """
        own = self._along(noise)
        wanted = kinds * len(self.centres) + self._cells(self._along(x) - self.offset, kinds, self._nearest)
        tried, chosen, owner = own, torch.empty_like(own), torch.arange(len(x), device=x.device)
        waiting, tries, drawn = owner, TRIES * len(self.centres), 0
        while True:
            found = kinds[owner] * len(self.centres) + self._cells(tried, kinds[owner], self.potentials)
            datum, draw = _matched(wanted[waiting], found)
            chosen[waiting[datum]] = tried[draw]
            left = torch.ones_like(waiting, dtype=torch.bool)
            left[datum] = False
            waiting = waiting[left]
            if not len(waiting):
                return with_part(noise, self.basis, chosen - own)
            # A draw is one for the class of a datum that waits, each in turn.
            count = min(tries * len(kinds[waiting].unique()), max(1, SCORES // len(self.centres)))
            owner = waiting.repeat(-(-count // len(waiting)))
            shape = len(owner), self.centres.shape[1]
            tried = torch.randn(shape, generator=generator, device=x.device, dtype=torch.float32)
            tries, drawn = tries + tries // 4, drawn + len(owner)
            if drawn > MOST_DRAWN:
                raise InputError(
                    f"each cell must be one that normal draws fall into, got none of {drawn} in some: fit fewer cells."
                )

    def kinds(self, count: int, labels: Tensor | None) -> Tensor:
        """The number of the class of each datum, see :func:`~immiscible.couplings.classes.kinds_of`."""
        return kinds_of(self.classes, count, labels, "cells")

    def _along(self, values: Tensor) -> Tensor:
        """Data or noise along the components, with shape (B, r)."""
        return rows(values).float() @ self.basis.T

    @property
    def _nearest(self) -> Tensor:
        """Potentials with which the cell of a datum is that of the nearest centre that its class has."""
        nearest = -self.centres.square().sum(1) / 2
        return nearest.masked_fill(self.weights == 0, -torch.inf)

    def _cells(self, points: Tensor, kinds: Tensor, potentials: Tensor) -> Tensor:
        """The cell of each point of a class."""
        if len(potentials) == 1:
            return nearest_of(points, self.centres, potentials[0])
        return largest_of(points @ self.centres.T + potentials[kinds])


def _matched(wanted: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """Gives out what was found: who gets something, and what; each thing once, in order.

    Arguments:
        wanted: What each one wants, as a number, with shape (n,).
        found: What each thing is, with shape (m,).
    """
    order, askers = found.argsort(stable=True), wanted.argsort(stable=True)
    kinds, asked = found[order], wanted[askers]
    # The i-th who wants a kind gets the i-th of that kind.
    turn = torch.arange(len(asked), device=asked.device) - torch.searchsorted(asked, asked)
    place = torch.searchsorted(kinds, asked) + turn
    got = place < torch.searchsorted(kinds, asked, right=True)
    return askers[got], order[place[got]]


@dataclass(frozen=True)
class Cells:
    r"""Sorts the data into groups, and gives each a part of the noise to itself; fitted to data once.

    Source: this package.

    The noise must be standard normal: parts of it are drawn again.

    Arguments:
        count: How many cells, from 1, where it changes nothing.
        rank: Along how many principal components they lie, from 1; as many as the data have where that is fewer.
        fitted: The cells, once :meth:`fit` has found them.

    Example:
        >>> x = torch.randn(500, 3, 4, 4)
        >>> cells = Cells(8, rank=2).fit(x)
        >>> noise = cells(x[:4], torch.randn(4, 3, 4, 4))
    """

    moves: ClassVar[str] = (
        "the part of each noise along a few principal components of the data: it becomes one that is normal within "
        "the cell of its datum."
    )
    law: ClassVar[str] = (
        "exact up to the fit, within each class if labels are given: the cells have the mass of their data, and the "
        "chi^2 of the fit says how nearly."
    )
    cost: ClassVar[str] = (
        "O(B D r) for products with the components, and about O(B K r) to draw; no state. A fit takes O(N (D + K) r)."
    )

    kept_as: ClassVar[str] = "cells"

    count: int = 256
    rank: int = RANK
    fitted: FittedCells | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_count(self.count, "count", MOST)
        check_count(self.rank, "rank", MOST_AXES)

    @torch.no_grad()
    def fit(self, data: Tensor | Loader, labels: Tensor | None = None, *, seed: int = 0) -> Cells:
        r"""Finds the cells of some data.

        Arguments:
            data: The data, with shape (N, \*); or a shuffled loader of batches, of which a sample is looked at once.
                A batch is data, or a pair of data and labels.
            labels: The class of each datum of a tensor, with shape (N,), where noise is to stay within classes.
            seed: The seed of all that is random in it.

        Returns:
            The same coupling, fitted.

        Raises:
            InputError: If there are no data, or they are not finite.
        """
        found = coded(data, labels, self.rank, AT_MOST, seed)
        draws = seeds.generator(found.points.device, seed, "cells")
        with full_float32(found.points.device):
            return dataclasses.replace(self, fitted=_fitted(found, self.count, draws))

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Cells:
        """The same with cells that were kept, see :class:`~immiscible.couplings.fitting.Fittable`."""
        return dataclasses.replace(self, fitted=FittedCells.of(tensors))

    @eager
    def __call__(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Couples, see :class:`~immiscible.couplings.protocol.Coupling`. Cells that know classes need labels."""
        check_inputs(x, noise, labels, generator)
        cells = check_fitted(self, self.fitted, x)
        with full_float32(x.device):
            norms = finite_norms(x, noise)[1]
            note_unless_normal(norms, noise.numel() // len(norms), str(self))
            return cells.draw(x.float(), noise.detach(), cells.kinds(len(norms), labels), generator)

    def to(self, device: torch.device | str) -> Cells:
        """The same on a device."""
        return self if self.fitted is None else dataclasses.replace(self, fitted=self.fitted.to(device))

    def __str__(self) -> str:
        return f"cells:{self.count}:{self.rank}"


def _fitted(data: Coded, count: int, draws: torch.Generator) -> FittedCells:
    """The cells of data."""
    points, classes = data.points, data.labels
    centres = centres_of(points, count, draws)
    nearest = nearest_of(points, centres)
    groups = torch.full_like(nearest, NO_CLASS) if classes is None else classes
    names, kinds = groups.unique(return_inverse=True)
    held = torch.bincount(kinds * len(centres) + nearest, minlength=len(names) * len(centres))
    weights = held.view(len(names), -1) / torch.bincount(kinds)[:, None]
    potentials, worst = torch.full_like(weights, -torch.inf), 0.0
    for own, potential in zip(weights, potentials, strict=True):
        has = own > 0
        potential[has] = ascend(centres[has], own[has], draws)
        worst = max(worst, chi_square(centres[has], potential[has], own[has], draws))
    return FittedCells(data.basis, data.offset, centres, weights, potentials, names, worst)
