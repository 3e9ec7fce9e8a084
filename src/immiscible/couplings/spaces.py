r"""The space that a coupling ranks in, where that is not the one of the data.

A coupling reads the data only to rank, so it may be shown something else: the data minus its mean, since a direction
that all data share tells nothing about one of them, or a coarse version, since in long latents the fine detail drowns
what matters. Let :math:`z = P\,(x - c)/s` with a matrix :math:`P` of orthonormal rows: means over cells of pixels, or
principal components. Then :math:`P n` is standard normal too, any coupling may pair it with :math:`z`, and the noise

.. math:: n' = n + P^\top\left(\mathrm{coupling}(z, P n) - P n\right)

has the coarse part that the coupling chose and the fine part that it had. The two parts are independent, so the law of
:math:`n'` is off by what the coupling does to the coarse part, and by nothing else. For KNN this is the published rule
with the distance taken in the coarse space; for the assignment it has the law of permuting whole noises.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from immiscible.couplings.distributed.ranks import check_first, ranks_of, together
from immiscible.couplings.protocol import Coupling, check_plain, eager, full_float32, note_unless_normal, rows
from immiscible.errors import InputError

# How far products of the rows of a basis may be off.
ORTHONORMAL = 1e-4


@dataclass(frozen=True, eq=False)
class CostSpace:
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

    def __post_init__(self) -> None:
        if self.pool is not None and self.basis is not None:
            raise InputError("a cost space must have a pool or a basis, got both.")
        if self.pool is not None and (not isinstance(self.pool, int) or isinstance(self.pool, bool) or self.pool < 1):
            raise InputError(f"`pool` must be a number of cells, a whole number of at least 1, got {self.pool!r}.")
        for name, value in self.tensors().items():
            if value is not None:
                _check_tensor(value, name)
        if self.basis is not None:
            _check_basis(self.basis)

    @property
    def trivial(self) -> bool:
        """Whether it is the space of the data itself."""
        return self.centre is self.scale is self.pool is self.basis is None

    def to(self, device: torch.device) -> CostSpace:
        """The same space on a device."""
        move = {name: None if value is None else value.to(device) for name, value in self.tensors().items()}
        return CostSpace(move["centre"], move["scale"], self.pool, move["basis"])

    def tensors(self) -> dict[str, Tensor | None]:
        """What it is made of."""
        return {"centre": self.centre, "scale": self.scale, "basis": self.basis}

    def standardize(self, x: Tensor) -> Tensor:
        """Data minus the centre, over the scale, with the shape of ``x``."""
        for name, value in self.tensors().items():
            if value is not None:
                self._check_fits(value, name, x)
        x = x if self.centre is None else x - self.centre
        return x if self.scale is None else x / self.scale

    @staticmethod
    def _check_fits(value: Tensor, name: str, x: Tensor) -> None:
        """Checks that the centre, scale or basis is one for such data."""
        if value.device != x.device:
            raise InputError(
                f"`{name}` of a cost space must be on the device of the data, {x.device}, got {value.device}: use "
                f'`space.to("{x.device}")`.'
            )
        datum, shape = x.shape[1:], value.shape
        if name == "basis":
            if shape[1] != datum.numel():
                raise InputError(
                    f"`basis` of a cost space must have shape (d, {datum.numel()}) for data with shape "
                    f"{tuple(datum)}, got {tuple(shape)}."
                )
        elif len(shape) > len(datum) or any(
            size not in (1, wanted) for size, wanted in zip(reversed(shape), reversed(datum), strict=False)
        ):
            raise InputError(
                f"`{name}` of a cost space must broadcast to one datum, with shape {tuple(datum)}, got {tuple(shape)}."
            )

    @property
    def is_coarse(self) -> bool:
        """Whether data and noise are compared by less than all that they are."""
        return self.pool is not None or self.basis is not None

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

    def project(self, values: Tensor) -> Tensor:
        r"""The coarse version of data or noise, with shape (B, d); :math:`P v`."""
        if self.basis is not None:
            return rows(values) @ self.basis.T.to(values.dtype)
        return F.avg_pool2d(values, self._cell(values)).mul(self._cell_norm(values)).flatten(1)

    def lift(self, coarse: Tensor, like: Tensor) -> Tensor:
        r"""A coarse version with shape (B, d) back in the shape of ``like``; :math:`P^\top c`."""
        if self.basis is not None:
            return (coarse @ self.basis.to(coarse.dtype)).view(like.shape)
        cells = coarse.view(*like.shape[:2], self.pool or 1, self.pool or 1)
        height, width = self._cell(like)
        return cells.repeat_interleave(height, 2).repeat_interleave(width, 3).div(self._cell_norm(like))

    def _cell(self, values: Tensor) -> tuple[int, int]:
        pool = self.pool or 1
        if values.ndim != 4 or values.shape[2] % pool or values.shape[3] % pool:
            raise InputError(
                f"a cost space pooled to {pool} x {pool} cells needs images whose height and width are multiples of "
                f"{pool}, got shape {tuple(values.shape[1:])}."
            )
        return values.shape[2] // pool, values.shape[3] // pool

    def _cell_norm(self, values: Tensor) -> float:
        return math.sqrt(math.prod(self._cell(values)))


def _check_tensor(value: Tensor, name: str) -> None:
    """Checks what can be told of a centre, scale or basis without the data."""
    check_plain(value, name)
    if not value.isfinite().all():
        raise InputError(f"`{name}` of a cost space must be finite, got NaN or infinite values.")
    if name == "scale" and not (value > 0).all():
        raise InputError(
            f"`scale` of a cost space must be positive, got {value.min().item():g}: set the scale of what does not "
            "vary to 1."
        )


def _check_basis(basis: Tensor) -> None:
    """Checks that the rows are orthonormal: else what is put back in the noise has not the law of noise."""
    if basis.ndim != 2 or not 1 <= len(basis) <= basis.shape[1]:
        raise InputError(f"`basis` must have shape (d, D) with 1 <= d <= D, got {tuple(basis.shape)}.")
    with full_float32(basis.device):
        products = basis.float() @ basis.float().T
    error = (products - torch.eye(len(basis), device=basis.device)).abs().max().item()
    if not error <= ORTHONORMAL:
        raise InputError(
            f"`basis` must have orthonormal rows, got products of rows that are off by {error:.2g}: take "
            "`torch.linalg.qr(basis.T)[0].T`."
        )


@dataclass(frozen=True)
class InSpace:
    """Lets a coupling rank in another space, see this module's description.

    *moves*: what the inner coupling moves; in a coarse space the coarse part of the noise only.
    *marginal*: exact where the inner coupling's is.
    *cost*: that of the inner coupling, and two passes over the noise, or two products with the basis, O(B D d).

    Source: this package; centred, standardised and coarse ranking are compared in the results of the documentation.

    In a coarse space the noise must be standard normal: only then are its coarse and its fine part independent.

    Arguments:
        coupling: The coupling.
        space: The space.

    Example:
        >>> from immiscible import KNN
        >>> x = torch.randn(4, 3, 16, 16)
        >>> noise = InSpace(KNN(8), CostSpace(pool=8))(x, torch.randn_like(x))
    """

    coupling: Coupling
    space: CostSpace

    def __post_init__(self) -> None:
        if not callable(self.coupling):
            raise InputError(f"`coupling` must be a coupling, got {self.coupling!r}: try `LinearAssignment()`.")
        if not isinstance(self.space, CostSpace):
            raise InputError(f"`space` must be a CostSpace, got {type(self.space).__name__}: try `CostSpace(pool=8)`.")

    @eager
    def __call__(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Couples, see :class:`~immiscible.couplings.protocol.Coupling`."""
        check_first(self.coupling, x, noise, labels, generator)
        space, ranks = self.space, ranks_of(self.coupling)
        if not space.is_coarse:
            data = together(ranks, lambda: space.ranked(x))
            return self.coupling(data, noise, labels=labels, generator=generator)
        with full_float32(x.device):
            data, coarse = together(ranks, lambda: (space.ranked(x.float()), space.coarse(noise.float())))
            note_unless_normal(torch.linalg.vector_norm(coarse, dim=1), coarse.shape[1], "a coarse space")
            return space.replaced(noise, self.coupling(data, coarse, labels=labels, generator=generator))

    def __str__(self) -> str:
        return str(self.coupling)
