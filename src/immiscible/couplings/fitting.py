"""Couplings that are fitted to data before they couple: what they share, and how their data are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from immiscible import seeds
from immiscible.couplings.axes import principal_axes
from immiscible.couplings.protocol import Coupling, check_finite, check_labels, check_plain, full_float32, rows
from immiscible.errors import InputError

# The axes are fitted to this many data.
FOR_AXES = 2048

Loader = Iterable[Any]
Read = tuple[Tensor, Tensor | None]


class Fit(Protocol):
    """What was found in the data."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that it is made of, by name."""
        ...

    def said(self) -> str:
        """What a run says of it, in one line."""
        ...


@runtime_checkable
class Fittable(Coupling, Protocol):
    """A coupling that couples once it is fitted. A run keeps what was found, and goes on with it."""

    kept_as: ClassVar[str]
    """The word for what was found, in the plural, which a run's file is named by."""

    @property
    def fitted(self) -> Fit | None:
        """What was found, if it is fitted."""
        ...

    def fit(self, data: Tensor | Loader, labels: Tensor | None = None, *, seed: int = 0) -> Fittable:
        r"""The same coupling, fitted.

        Arguments:
            data: The data, with shape (N, \*); or a shuffled loader of batches, of which a sample is looked at once.
                A batch is data, or a pair of data and labels.
            labels: The class of each datum of a tensor, with shape (N,), where noise is to stay within classes.
            seed: The seed of all that is random in it.
        """
        ...

    def to(self, device: torch.device | str) -> Fittable:
        """The same on a device."""
        ...

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Fittable:
        """The same coupling, fitted as it was when these were its tensors.

        Raises:
            InputError: If they are not those of a fit, or another error of what reads them.
        """
        ...


@dataclass(frozen=True)
class Coded:
    """Data along their leading principal components.

    Attributes:
        basis: The components as orthonormal rows, with shape (r, D).
        offset: The mean of the first data in them, with shape (r,).
        points: Where the data are in them, seen from there, with shape (N, r).
        labels: The class of each, with shape (N,), if the data have classes.
    """

    basis: Tensor
    offset: Tensor
    points: Tensor
    labels: Tensor | None


def coded(data: Tensor | Loader, labels: Tensor | None, rank: int, most: int, seed: int) -> Coded:
    """Reads data, and finds where they are along their components.

    Arguments:
        data: The data or a loader, see :class:`Fittable`.
        labels: The class of each datum of a tensor.
        rank: How many components; as many as the data have where that is fewer.
        most: No more data than these are looked at.
        seed: The seed of their order.

    Raises:
        InputError: If there are no data, or they are not finite.
    """
    batches = data
    if isinstance(data, Tensor):
        batches = _batches(data, labels, seeds.generator(data.device, seed, "cells order"))
    reading = map(_read, batches)
    head, seen = [], 0
    for batch in reading:
        head.append(batch)
        seen += len(batch[0])
        if seen >= FOR_AXES:
            break
    if not seen:
        raise InputError("a coupling must be fitted to at least one datum, got none.")
    points, classes, seen = [], [], 0
    sample = torch.cat([rows(x) for x, _ in head])
    with full_float32(sample.device):
        found = principal_axes(sample, rank)
        basis = found.axes.T.contiguous()
        offset = basis @ found.mean
        for x, kinds in chain(head, reading):
            points.append(rows(x) @ basis.T - offset)
            classes.append(kinds)
            seen += len(x)
            if seen >= most:
                break
    known = [kinds.long() for kinds in classes if kinds is not None]
    return Coded(basis, offset, torch.cat(points), torch.cat(known) if known else None)


def _batches(x: Tensor, labels: Tensor | None, draws: torch.Generator) -> Iterator[Any]:
    """A loader of a tensor."""
    check_plain(x, "x")
    if labels is not None:
        check_labels(labels, len(x))
    for index in torch.randperm(len(x), generator=draws, device=x.device).split(FOR_AXES):
        yield x[index] if labels is None else (x[index], labels.to(x.device)[index])


def _read(batch: Any) -> Read:
    """The data of a batch, and their labels if it has any."""
    x: Any = batch
    labels: Tensor | None = None
    if isinstance(batch, Sequence) and len(batch) == 2:
        x, labels = batch
    check_plain(x, "x")
    if labels is not None:
        check_labels(labels, len(x))
    check_finite(x, torch.linalg.vector_norm(rows(x).float(), dim=1), "x")
    return x.float(), labels


class AlongComponents(Protocol):
    """What is fitted along components of the data."""

    @property
    def basis(self) -> Tensor:
        """The components as orthonormal rows, with shape (r, D)."""
        ...


F = TypeVar("F", bound=AlongComponents)


def check_fitted(coupling: Fittable, fitted: F | None, x: Tensor) -> F:
    """Checks that a coupling is fitted, on the device of the data, and to data as large as these; gives its fit."""
    if fitted is None:
        raise InputError(f"{coupling} must be fitted to data before it couples: take what `coupling.fit(x)` gives.")
    basis = fitted.basis
    if x.device != basis.device:
        raise InputError(
            f"{coupling} must be on the device of the data, {x.device}, got {basis.device}: use "
            f'`{coupling.kept_as}.to("{x.device}")`.'
        )
    if x[0].numel() != basis.shape[1]:
        raise InputError(
            f"{coupling} must be given data of {basis.shape[1]} values each, as it was fitted to, got {x[0].numel()}."
        )
    return fitted


def with_part(noise: Tensor, basis: Tensor, change: Tensor) -> Tensor:
    r"""Noise with its part along some components changed, in its dtype.

    Arguments:
        noise: The noise, with shape (B, \*).
        basis: The components as orthonormal rows, with shape (r, D).
        change: What is added along them, with shape (B, r).
    """
    wide = torch.promote_types(noise.dtype, torch.float32)
    changed = torch.addmm(rows(noise).to(wide), change.to(wide), basis.to(wide))
    return changed.to(noise.dtype).view(noise.shape)


def check_count(value: object, name: str, most: int) -> None:
    """Checks that an argument is a whole number from 1 on."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InputError(f"`{name}` must be a whole number from 1 to {most:,}, got {value!r}.")
