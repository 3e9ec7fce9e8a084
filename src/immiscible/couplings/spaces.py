r"""The space that a coupling ranks in, where that is not the one of the data.

A coupling reads the data only to rank, so it may be shown something else: the data minus its mean, since a direction
that all data share says nothing about one of them, or a coarse version, since in long latents the fine detail drowns
what matters. Let :math:`z = P\,(x - c)/s` with a matrix :math:`P` of orthonormal rows: means over cells of pixels, or
principal components. Then :math:`P n` is standard normal too, any coupling may pair it with :math:`z`, and the noise

.. math:: n' = n + P^\top\left(\mathrm{coupling}(z, P n) - P n\right)

has the coarse part that the coupling chose and the fine part that it had. The two parts are independent, so the law of
:math:`n'` is off by what the coupling does to the coarse part, and by nothing else. For KNN this is the published rule
with the distance taken in the coarse space; for the assignment it has the law of permuting whole noises.

A space is one class, fitted to data and spelled as its ``name`` says, such as ``pooled:8``; :data:`SPACES` lists them.
What a continuous condition leaves open of the data is a space too, see :mod:`immiscible.couplings.residuals`; so are
data with their conditions beside them, see :mod:`immiscible.couplings.conditions`.
:class:`InSpace` takes any object that is a :class:`Space`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from immiscible.couplings.assignment import TO_THE_NEAREST
from immiscible.couplings.axes import check_orthonormal, principal_axes
from immiscible.couplings.conditions import ConditionSpace, accompany, alone
from immiscible.couplings.distributed.ranks import check_first, ranks_of, together
from immiscible.couplings.protocol import (
    Coupling,
    Independent,
    Permuting,
    check_plain,
    eager,
    full_float32,
    note_unless_normal,
    rows,
    unwrap,
    wrap,
)
from immiscible.couplings.residuals import ResidualSpace
from immiscible.errors import InputError, shown

# What does not vary is not divided by its standard deviation.
LEAST_DEVIATION = 1e-6


@runtime_checkable
class Space(Protocol):
    r"""Where data and noise are compared. Whatever has these four members is one."""

    @property
    def is_coarse(self) -> bool:
        """Whether data and noise are compared by less than all that they are."""
        ...

    def ranked(self, x: Tensor) -> Tensor:
        r"""Data with shape (B, \*) as they are ranked; where that is coarse, with shape (B, d)."""
        ...

    def coarse(self, noise: Tensor) -> Tensor:
        r"""Standard normal noise with shape (B, \*) as it is ranked, with the shape of ranked data; normal too."""
        ...

    def replaced(self, noise: Tensor, chosen: Tensor) -> Tensor:
        """Noise with its ranked part replaced by the one that was chosen for it."""
        ...


@runtime_checkable
class Conditional(Space, Protocol):
    """A space in which data are ranked by what a condition says of them."""

    def given(self, condition: Tensor | None) -> Space:
        r"""The space for a batch with a condition, of shape (B, \*)."""
        ...


@runtime_checkable
class Accompanied(Conditional, Protocol):
    """A space in which noise is ranked by what it was drawn beside, too, which an assignment that moves it needs."""

    def beside(self) -> Tensor:
        """What stands beside each datum, and beside the noise drawn for it, with shape (B, c)."""
        ...


class Population(Protocol):
    """Data that a space is fitted to, of any shape."""

    def mean(self) -> Tensor:
        """Their mean, ``float32`` with the shape of one."""
        ...

    def sample(self) -> Tensor:
        r"""Some of them, or all, ``float32`` with shape (N, \*)."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearSpace(ABC):
    r"""Where data and noise are compared: :math:`P (x - c) / s` with orthonormal rows of :math:`P`.

    Arguments:
        centre: What to subtract from the data, with a shape that broadcasts to one datum; None for nothing.
        scale: What to divide the data by, positive, with a shape that broadcasts to one datum; None for one.

    Raises:
        InputError: If they are no finite tensors, or the scale is not positive.
    """

    centre: Tensor | None = None
    scale: Tensor | None = None
    # Whether data and noise are compared by less than all that they are.
    is_coarse = True

    def __post_init__(self) -> None:
        for name, value in self.tensors().items():
            _check_tensor(value, name)

    @abstractmethod
    def project(self, values: Tensor) -> Tensor:
        r"""The coarse version of data or noise, with shape (B, d); :math:`P v`."""

    @abstractmethod
    def lift(self, coarse: Tensor, like: Tensor) -> Tensor:
        r"""A coarse version with shape (B, d) back in the shape of ``like``; :math:`P^\top c`."""

    @property
    def trivial(self) -> bool:
        """Whether it is the space of the data itself."""
        return not self.is_coarse and not self.tensors()

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that it is made of, by their names."""
        return _given(centre=self.centre, scale=self.scale)

    def to(self, device: torch.device) -> LinearSpace:
        """The same space on a device."""
        return dataclasses.replace(self, **{name: value.to(device) for name, value in self.tensors().items()})

    def standardize(self, x: Tensor) -> Tensor:
        """Data minus the centre, over the scale, with the shape of ``x``."""
        for name, value in (("centre", self.centre), ("scale", self.scale)):
            if value is not None:
                _check_broadcasts(value, name, x)
        x = x if self.centre is None else x - self.centre
        return x if self.scale is None else x / self.scale

    def ranked(self, x: Tensor) -> Tensor:
        """Data as they are ranked."""
        x = self.standardize(x)
        return self.project(x) if self.is_coarse else x

    def coarse(self, noise: Tensor) -> Tensor:
        """Noise as it is ranked."""
        return self.project(noise) if self.is_coarse else noise

    def replaced(self, noise: Tensor, chosen: Tensor) -> Tensor:
        """Noise with the ranked part that was chosen for it, see this module's description."""
        if not self.is_coarse:
            return chosen
        return (noise + self.lift(chosen - self.project(noise.float()), noise)).to(noise.dtype)


class Whole(LinearSpace):
    """All that data and noise are: the identity as :math:`P`."""

    is_coarse = False

    def project(self, values: Tensor) -> Tensor:
        return rows(values)

    def lift(self, coarse: Tensor, like: Tensor) -> Tensor:
        return coarse.view(like.shape)


class Raw(Whole):
    """The data as they are."""

    name = "raw"

    @classmethod
    def fit(cls, points: Population) -> LinearSpace:
        """Needs nothing of the data."""
        return cls()


class Centered(Whole):
    """The data minus their mean, which all of them share."""

    name = "centered"

    @classmethod
    def fit(cls, points: Population) -> LinearSpace:
        """Takes the mean of all data."""
        return cls(centre=points.mean())


class Standardized(Whole):
    """The data minus their mean, over the standard deviation of each channel."""

    name = "standardized"

    @classmethod
    def fit(cls, points: Population) -> LinearSpace:
        """Takes the mean of all data, and the standard deviations of a sample around it.

        Of data with shape (C, H, W) or more dimensions those of the channels, which come first; of vectors and
        sequences those of each value.
        """
        centre, sample = points.mean(), points.sample()
        over = (0, *range(2, sample.ndim)) if sample.ndim > 3 else (0,)
        variance = (sample - centre).double().square().mean(over, keepdim=True)[0]
        return cls(centre=centre, scale=variance.sqrt().clamp_min(LEAST_DEVIATION).float())


@dataclass(frozen=True, eq=False)
class CellMeans(LinearSpace):
    """Means over cells of images with shape (C, H, W), minus the mean of the data.

    Arguments:
        cells: The number of cells along the height, and along the width, both multiples of it.
    """

    name: ClassVar[str] = "pooled:CELLS"

    cells: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_cells(self.cells, "cells")

    @classmethod
    def fit(cls, points: Population, cells: int) -> LinearSpace:
        """Takes the mean of all data.

        Raises:
            InputError: If they are not images that divide into such cells.
        """
        centre = points.mean()
        if centre.ndim != 3 or centre.shape[1] % cells or centre.shape[2] % cells:
            size = " x ".join(map(str, centre.shape[1:] if centre.ndim == 3 else centre.shape))
            raise InputError(
                "the cost space pooled:N needs images whose height and width are multiples of N, got "
                f"{size} and pooled:{cells}."
            )
        return cls(cells, centre=centre)

    def project(self, values: Tensor) -> Tensor:
        # Times the square root of a cell's size, so that the rows of P have length one.
        return F.avg_pool2d(values, self._size(values)).mul(self._norm(values)).flatten(1)

    def lift(self, coarse: Tensor, like: Tensor) -> Tensor:
        cells = coarse.view(*like.shape[:2], self.cells, self.cells)
        height, width = self._size(like)
        return cells.repeat_interleave(height, 2).repeat_interleave(width, 3).div(self._norm(like))

    def _size(self, values: Tensor) -> tuple[int, int]:
        """The height and width of a cell."""
        cells = self.cells
        if values.ndim != 4 or values.shape[2] % cells or values.shape[3] % cells:
            raise InputError(
                f"a cost space pooled to {cells} x {cells} cells needs images whose height and width are multiples of "
                f"{cells}, got shape {tuple(values.shape[1:])}."
            )
        return values.shape[2] // cells, values.shape[3] // cells

    def _norm(self, values: Tensor) -> float:
        return math.sqrt(math.prod(self._size(values)))


@dataclass(frozen=True, eq=False)
class LeadingComponents(LinearSpace):
    """Components of the data along a few axes, minus their mean.

    Arguments:
        basis: The axes as orthonormal rows, to within 1e-4, with shape (d, D).
    """

    name: ClassVar[str] = "pca:COMPONENTS"

    basis: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        check_orthonormal(self.basis)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"basis": self.basis}

    @classmethod
    def fit(cls, points: Population, count: int) -> LinearSpace:
        """Takes the mean of all data, and the leading principal axes of a sample.

        Raises:
            InputError: If the data vary along fewer axes.
        """
        centre = points.mean()
        # A sample has a mean of its own.
        found = principal_axes(rows(points.sample() - centre).double())
        most = int((found.squares > 0).sum())
        if count > most:
            raise InputError(
                f"the cost space pca:N needs N of at most {most} for this data, which varies along no more axes, got "
                f"pca:{count}."
            )
        return cls(found.axes[:, :count].T.float().contiguous(), centre=centre)

    def project(self, values: Tensor) -> Tensor:
        _check_device(self.basis, "basis", values)
        datum, shape = values.shape[1:], tuple(self.basis.shape)
        if shape[1] != datum.numel():
            raise InputError(
                f"`basis` of a cost space must have shape (d, {datum.numel()}) for data with shape {tuple(datum)}, "
                f"got {shape}."
            )
        return rows(values) @ self.basis.T.to(values.dtype)

    def lift(self, coarse: Tensor, like: Tensor) -> Tensor:
        return (coarse @ self.basis.to(coarse.dtype)).view(like.shape)


@dataclass(frozen=True, eq=False)
class CostSpace(LinearSpace):
    r"""Where data and noise are compared: :math:`P (x - c) / s`.

    Arguments:
        centre: What to subtract from the data, with a shape that broadcasts to one datum; None for nothing.
        scale: What to divide the data by, positive, with a shape that broadcasts to one datum; None for one.
        pool: Compare means over ``pool`` by ``pool`` cells of images with shape (C, H, W), H and W multiples of it.
        basis: Compare components along these rows, orthonormal to within 1e-4, with shape (d, D).

    Raises:
        InputError: If both a pool and a basis are given, or one of all this is not as it should be.
    """

    centre: Tensor | None = None
    scale: Tensor | None = None
    pool: int | None = None
    basis: Tensor | None = None
    _part: LinearSpace = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool is not None and self.basis is not None:
            raise InputError("a cost space must have a pool or a basis, got both.")
        if self.pool is not None:
            _check_cells(self.pool, "pool")
        part = Whole() if self.basis is None else LeadingComponents(self.basis)
        part = part if self.pool is None else CellMeans(self.pool)
        # The dataclass is frozen.
        object.__setattr__(self, "_part", part)
        object.__setattr__(self, "is_coarse", part.is_coarse)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | _given(basis=self.basis)

    def project(self, values: Tensor) -> Tensor:
        return self._part.project(values)

    def lift(self, coarse: Tensor, like: Tensor) -> Tensor:
        return self._part.lift(coarse, like)


# The spaces that a run may be asked for. What stands after a colon in a name is a number.
SPACES: tuple[Any, ...] = (Raw, Centered, Standardized, ResidualSpace, ConditionSpace, CellMeans, LeadingComponents)
Fitted = LinearSpace | ResidualSpace | ConditionSpace
# The share of pairs that a condition is to keep apart may be spelled, too.
WITH_SHARE = r"condition:(0?\.[0-9]{1,6})"


def parse_space(text: str) -> Callable[[Population], Fitted]:
    """Reads the spelling of a space, such as ``centered``, ``pca:64`` or ``condition:0.9``; gives what fits it to data.

    Raises:
        InputError: If it is no spelling of one of :data:`SPACES`.
    """
    kind, numbers, named = _spelled(text)
    return lambda points: kind.fit(points, *numbers, **named)


def reads_condition(text: str) -> bool:
    """Whether data are ranked by their condition in the space of a spelling, so that noise may go across classes."""
    return hasattr(_spelled(text)[0], "given")


def _spelled(text: str) -> tuple[Any, list[int], dict[str, float]]:
    """The kind of a space, and what else its spelling says."""
    if found := re.fullmatch(WITH_SHARE, text):
        return ConditionSpace, [], {"share": float(found[1])}
    for kind in SPACES:
        name, _, number = kind.name.partition(":")
        if found := re.fullmatch(f"{name}:([1-9][0-9]{{0,5}})" if number else name, text):
            return kind, [int(group) for group in found.groups()], {}
    *others, last = [kind.name for kind in SPACES]
    raise InputError(f"must be {', '.join(others)} or {last}, got {shown(repr(text), 100)}")


def _given(**tensors: Tensor | None) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if value is not None}


def _check_tensor(value: Tensor, name: str) -> None:
    """Checks what a centre, scale or basis must be for any data."""
    check_plain(value, name)
    if not value.isfinite().all():
        raise InputError(f"`{name}` of a cost space must be finite, got NaN or infinite values.")
    if name == "scale" and not (value > 0).all():
        raise InputError(
            f"`scale` of a cost space must be positive, got {value.min().item():g}: set the scale of what does not "
            "vary to 1."
        )


def _check_cells(cells: object, name: str) -> None:
    if not isinstance(cells, int) or isinstance(cells, bool) or cells < 1:
        raise InputError(f"`{name}` must be a number of cells, a whole number of at least 1, got {cells!r}.")


def _check_broadcasts(value: Tensor, name: str, x: Tensor) -> None:
    """Checks that a centre or scale is one for such data."""
    _check_device(value, name, x)
    datum, shape = x.shape[1:], value.shape
    if len(shape) > len(datum) or any(
        size not in (1, wanted) for size, wanted in zip(reversed(shape), reversed(datum), strict=False)
    ):
        raise InputError(
            f"`{name}` of a cost space must broadcast to one datum, with shape {tuple(datum)}, got {tuple(shape)}."
        )


def _check_device(value: Tensor, name: str, x: Tensor) -> None:
    if value.device != x.device:
        raise InputError(
            f"`{name}` of a cost space must be on the device of the data, {x.device}, got {value.device}: use "
            f'`space.to("{x.device}")`.'
        )


@dataclass(frozen=True)
class InSpace:
    """Lets a coupling rank in another space, see this module's description.

    Source: this package; centred, standardised and coarse ranking are compared in the results of the documentation.

    In a coarse space the noise must be standard normal: only then are its coarse and its fine part independent.

    Arguments:
        coupling: The coupling.
        space: The space; one of a user's own is any object that is a :class:`Space`.

    Example:
        >>> from immiscible import KNN
        >>> x = torch.randn(4, 3, 16, 16)
        >>> noise = InSpace(KNN(8), CostSpace(pool=8))(x, torch.randn_like(x))
    """

    moves: ClassVar[str] = "what the inner coupling moves; in a coarse space the coarse part of the noise only."
    law: ClassVar[str] = "exact where the inner coupling's is."
    cost: ClassVar[str] = (
        "that of the inner coupling, and two passes over the noise, or two products with the basis, O(B D d)."
    )

    coupling: Coupling
    space: Space

    def __post_init__(self) -> None:
        if not callable(self.coupling):
            raise InputError(f"`coupling` must be a coupling, got {self.coupling!r}: try `LinearAssignment()`.")
        if not isinstance(self.space, Space):
            raise InputError(f"`space` must be a CostSpace, got {type(self.space).__name__}: try `CostSpace(pool=8)`.")
        if isinstance(self.space, Accompanied):
            _check_moving(unwrap(self.coupling)[1])

    @property
    def inner(self) -> Coupling:
        """The coupling."""
        return self.coupling

    def with_inner(self, inner: Coupling) -> InSpace:
        """The same around another coupling."""
        return dataclasses.replace(self, coupling=inner)

    @eager
    def __call__(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Couples, see :class:`~immiscible.couplings.protocol.Coupling`."""
        check_first(self.coupling, x, noise, labels, generator)
        space, ranks = self.space, ranks_of(self.coupling)
        if isinstance(space, Accompanied):
            data, beside = together(ranks, lambda: (space.ranked(x), space.beside()))
            drawn = accompany(noise, beside)
            return alone(self.coupling(accompany(data, beside), drawn, labels=labels, generator=generator), noise)
        if not space.is_coarse:
            data = together(ranks, lambda: space.ranked(x))
            return self.coupling(data, noise, labels=labels, generator=generator)
        with full_float32(x.device):
            data, coarse = together(ranks, lambda: (space.ranked(x.float()), space.coarse(noise.float())))
            note_unless_normal(torch.linalg.vector_norm(coarse, dim=1), coarse.shape[1], "a coarse space")
            return space.replaced(noise, self.coupling(data, coarse, labels=labels, generator=generator))

    def given(self, condition: Tensor | None) -> InSpace:
        """The same for a batch with a condition, which only a :class:`Conditional` space takes."""
        space = self.space.given(condition) if isinstance(self.space, Conditional) else self.space
        return dataclasses.replace(self, space=space)

    def __str__(self) -> str:
        return str(self.coupling)


def _check_moving(coupling: Coupling) -> None:
    """Checks that a coupling moves noise from one datum to another, to where that is nearest."""
    if not isinstance(coupling, Permuting | Independent):
        raise InputError(
            f"the cost space condition is for assignments, which move noise from one datum to another, got {coupling}: "
            "take residual."
        )
    if getattr(coupling, "goal", "best") == "worst":
        raise InputError(TO_THE_NEAREST)


def given(coupling: Coupling, condition: Tensor | None) -> Coupling:
    r"""A coupling for a batch with a condition: what ranks residuals within it is told what they are residuals of.

    Arguments:
        coupling: The coupling.
        condition: The condition of each datum, with shape (B, \*), or None.

    Raises:
        InputError: If a condition is needed, and there is none that fits.
    """
    wrappers, inner = unwrap(coupling)
    return wrap([one.given(condition) if isinstance(one, InSpace) else one for one in wrappers], inner)
