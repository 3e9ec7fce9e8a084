"""Fits the cells of a run's coupling, see :mod:`immiscible.couplings.cells`, or reads those that it began with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from immiscible.couplings import Cells, Coupling
from immiscible.couplings.cells import FittedCells
from immiscible.couplings.protocol import unwrap, wrap
from immiscible.errors import InputError, one_line
from immiscible.io.files import write_bytes
from immiscible.training.checkpoint import checkpoints

CELLS = "cells.safetensors"


def fit_cells(coupling: Coupling, out: Path, data: Callable[[], Iterable[Any]]) -> FittedCells | None:
    """The cells of a run's coupling, if it has any.

    A run that goes on has those that it began with: another machine might fit others, by the last digit.

    Arguments:
        coupling: The coupling as it is spelled.
        out: The run directory.
        data: Gives the data as they are ranked, batch by batch, with their classes where noise stays within these.

    Raises:
        InputError: If the cells of a run that goes on are not there as they were written.
    """
    inner = unwrap(coupling)[1]
    if not isinstance(inner, Cells):
        return None
    return _read(out / CELLS) if checkpoints(out / "checkpoints") else inner.fit(data()).fitted


def with_cells(coupling: Coupling, cells: FittedCells | None) -> Coupling:
    """A coupling with the cells that were fitted for it."""
    wrappers, inner = unwrap(coupling)
    return wrap(wrappers, dataclasses.replace(inner, fitted=cells)) if isinstance(inner, Cells) else coupling


def write_cells(out: Path, cells: FittedCells) -> None:
    """Keeps cells beside the run."""
    write_bytes(out / CELLS, save(cells.tensors()))


def lines_on(cells: FittedCells | None) -> list[str]:
    """What is said of the cells of a run."""
    if cells is None:
        return []
    classes, count = len(cells.classes), f"{len(cells.centres)} cells along {len(cells.basis)} principal components"
    within = f"in each of {classes} classes; the farthest has" if classes > 1 else "have"
    return [f"{count} {within} a chi^2 of {cells.chi2:.2f}, of which chance gives 1."]


def _read(path: Path) -> FittedCells:
    """The cells that were kept."""
    try:
        return FittedCells.of(load(path.read_bytes()))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} must hold the cells that the run began with, got: {one_line(error)}: restore the file as it was "
            "written, or give another --out."
        ) from None
