"""Fits the coupling of a run to its data, see :mod:`immiscible.couplings.fitting`, or reads what it began with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from immiscible.couplings import Coupling
from immiscible.couplings.fitting import Fittable
from immiscible.couplings.protocol import unwrap, wrap
from immiscible.errors import InputError, one_line
from immiscible.io.files import write_bytes
from immiscible.training.checkpoint import checkpoints

T = TypeVar("T")


def fit_coupling(coupling: Coupling, out: Path, data: Callable[[], Iterable[Any]]) -> Fittable | None:
    """What within a coupling is fitted to data, fitted; None if nothing is.

    A run that goes on has the fit that it began with: another machine might find another, by the last digit.

    Arguments:
        coupling: The coupling as it is spelled.
        out: The run directory.
        data: Gives the data as they are ranked, batch by batch, with their classes where they count.

    Raises:
        InputError: If the fit of a run that goes on is not there as it was written.
    """
    inner = unwrap(coupling)[1]
    if not isinstance(inner, Fittable):
        return None
    if not checkpoints(out / "checkpoints"):
        return inner.fit(data())
    return read_kept(_file(out, inner), f"the {inner.kept_as} that the run began with", inner.with_tensors)


def with_fit(coupling: Coupling, fitted: Fittable | None, device: torch.device | str = "cpu") -> Coupling:
    """A coupling whose inner one is the one that was fitted for it, on a device."""
    return coupling if fitted is None else wrap(unwrap(coupling)[0], fitted.to(device))


def write_fit(out: Path, fitted: Fittable) -> None:
    """Keeps what was fitted beside the run."""
    if fitted.fitted is not None:
        write_bytes(_file(out, fitted), save(fitted.fitted.tensors()))


def lines_on(fitted: Fittable | None) -> list[str]:
    """What is said of the fit of a run."""
    return [] if fitted is None or fitted.fitted is None else [fitted.fitted.said()]


def _file(out: Path, fitted: Fittable) -> Path:
    return out / f"{fitted.kept_as}.safetensors"


def read_kept(path: Path, what: str, parse: Callable[[Mapping[str, Tensor]], T]) -> T:
    """What a run keeps in a file of tensors.

    Arguments:
        path: The file.
        what: What it holds, for the error.
        parse: Makes that of the tensors.

    Raises:
        InputError: If it is not there as it was written.
    """
    try:
        return parse(load(path.read_bytes()))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} must hold {what}, got: {one_line(error)}: restore the file as it was written, or give another "
            "--out."
        ) from None
