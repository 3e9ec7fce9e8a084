"""Demonstrations from a ``.npz`` file of NumPy, such as one's own, or what ``immiscible make-pusht`` writes.

*Keys.* ``observations`` with shape (T, O) and ``actions`` with shape (T, A), floats or integers in any units; rows of
more axes are flattened. Where episodes end is either ``episode_ends``, integers with shape (E,), each one more than the
last frame of its episode, or ``episode_index``, with shape (T,), the episode that each frame belongs to. ``rate``, the
frames a second, is a single number, and 10 where it is absent. Other arrays are not read; they are counted by name.

A folder that holds a file ``demonstrations.npz`` is read as that file.

Pickled objects are never loaded.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from immiscible.data import claims
from immiscible.data.demonstrations.episodes import Demonstrations
from immiscible.data.demonstrations.values import as_ends, as_rows, ends_of_index
from immiscible.data.readers.arrays import DAMAGED
from immiscible.errors import InputError, one_line

FILE = "demonstrations.npz"
ROWS = ("observations", "actions")
ENDS, INDEX, RATE = "episode_ends", "episode_index", "rate"
DEFAULT_RATE = 10.0
SAVE = "`numpy.savez(file, observations=..., actions=..., episode_ends=...)`"


def matches(spec: str) -> bool:
    """Whether data is a ``.npz`` file, or a folder with one of demonstrations."""
    return _file(spec).is_file()


def read(spec: str) -> Demonstrations:
    """Reads a file, see this module's description.

    Raises:
        InputError: If the file is damaged, or arrays are missing or do not fit together.
    """
    path, name = _file(spec), Path(os.path.expanduser(spec)).resolve().name
    arrays, others = _arrays(name, path)
    observations, actions = (as_rows(name, key, arrays[key]) for key in ROWS)
    if ENDS in arrays:
        ends = as_ends(name, ENDS, arrays[ENDS])
    else:
        if arrays[INDEX].shape != (len(observations),):
            raise InputError(
                f"{name}: {INDEX} must have shape ({len(observations)},), one per frame, got {arrays[INDEX].shape}."
            )
        ends = ends_of_index(name, INDEX, arrays[INDEX])
    passed_over = {f"array {key}, which is not read": 1 for key in others}
    return Demonstrations(name, observations, actions, ends, _rate(name, arrays), passed_over)


def _file(spec: str) -> Path:
    path = Path(os.path.expanduser(spec))
    return path if path.suffix.lower() == ".npz" else path / FILE


def _arrays(name: str, path: Path) -> tuple[dict[str, np.ndarray[Any, Any]], list[str]]:
    """The arrays of a file that are read, and the names of the others."""
    try:
        # NumPy leaves a damaged .npz open that it opened itself.
        with path.open("rb") as file:
            with zipfile.ZipFile(file) as archive:
                there = [member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")]
                keys = _keys(name, there)
                claims.check_npz(name, archive, keys)
            file.seek(0)
            with np.load(file, allow_pickle=False) as loaded:
                return {key: np.asarray(loaded[key]) for key in keys}, [key for key in there if key not in keys]
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(
            f"`{name}` must be a whole .npz file without pickled objects, got: {one_line(error)}: save plain arrays "
            f"with {SAVE}."
        ) from error


def _keys(name: str, there: list[str]) -> list[str]:
    episodes = next((key for key in (ENDS, INDEX) if key in there), None)
    if episodes is None or not set(ROWS) <= set(there):
        raise InputError(
            f"`{name}` must hold {', '.join(ROWS)}, and {ENDS} or {INDEX}, got "
            f"{', '.join(sorted(there)) or 'no array'}: save it with {SAVE}."
        )
    return [*ROWS, episodes, *([RATE] if RATE in there else [])]


def _rate(name: str, arrays: dict[str, np.ndarray[Any, Any]]) -> float:
    rate = arrays.get(RATE, np.array(DEFAULT_RATE))
    if rate.size != 1 or rate.dtype.kind not in "iuf":
        raise InputError(f"{name}: {RATE} must be one number, got {rate.dtype} with shape {rate.shape}.")
    return float(rate.reshape(()))
