"""What sources of demonstrations hold, checked, in the form that :class:`.Demonstrations` have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from immiscible.errors import InputError, one_line

# A file of metadata is not larger than this.
MOST_METADATA = 2**24


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file of metadata.

    Raises:
        InputError: If the file is damaged, holds something else, or is not there.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_METADATA + 1)
        if len(content) > MOST_METADATA:
            raise InputError(f"`{path}` must be a file of metadata, got one of more than {MOST_METADATA} bytes.")
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"`{path}` must be readable JSON, got: {one_line(error)}.") from error
    if not isinstance(value, dict):
        raise InputError(f"`{path}` must hold an object, got {type(value).__name__}.")
    return value


def as_rows(name: str, what: str, values: np.ndarray[Any, Any]) -> Tensor:
    """Numbers of a source as rows of ``float32``; what has more axes is one row a frame.

    Arguments:
        name: What messages call the source.
        what: What messages call the numbers.
        values: Integers or floats, with shape (T, ...).

    Raises:
        InputError: If they are no numbers.
    """
    if values.dtype.kind not in "iuf" or values.ndim == 0:
        raise InputError(f"{name}: {what} must be rows of numbers, got {values.dtype} with shape {values.shape}.")
    # Numbers beyond float32 become infinite, and are refused as such.
    with np.errstate(over="ignore"):
        rows = np.array(values.reshape(len(values), -1) if values.size else values, dtype=np.float32, order="C")
    return torch.from_numpy(rows)


def as_ends(name: str, what: str, values: np.ndarray[Any, Any]) -> Tensor:
    """Ends of episodes as a source has them.

    Raises:
        InputError: If they are no integers on one axis.
    """
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise InputError(
            f"{name}: {what} must be integers with shape (episodes,), got {values.dtype} with shape {values.shape}."
        )
    return torch.from_numpy(np.array(values, dtype=np.int64))


def ends_of_index(name: str, what: str, values: np.ndarray[Any, Any]) -> Tensor:
    """Ends of episodes, from the number of the episode that each frame belongs to.

    Raises:
        InputError: If they are no integers on one axis, or an episode goes on after another one.
    """
    index = as_ends(name, what, values)
    last = torch.cat([index[1:] != index[:-1], index.new_ones(min(len(index), 1), dtype=torch.bool)])
    ends = last.nonzero()[:, 0] + 1
    if len(index[ends - 1].unique()) != len(ends):
        raise InputError(
            f"{name}: {what} must have the frames of an episode one after the other, got episodes that go on after "
            "others: sort the frames."
        )
    return ends
