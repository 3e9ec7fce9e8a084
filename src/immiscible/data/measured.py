"""Data of any shape, to be measured: images, latents, vectors or action chunks, with labels, observations or neither.

Whatever ``--data`` takes is read by the readers of images. Files of NumPy and safetensors are read here unless they
hold bytes, since what is measured needs no channels. Keys, in a file of several arrays: the data under ``images``,
``x``, ``latents``, ``actions`` or ``arr_0``, or else the only array that is nothing else; classes under ``labels``,
``y`` or ``arr_1``; what a model is conditioned on, as rows of numbers, under ``observations``, ``obs``, ``conditions``
or ``embeddings``. Floats are taken as they are.
"""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from immiscible.config.groups import ReadOptions
from immiscible.data import claims, reading
from immiscible.data.images import number_classes
from immiscible.data.options import check_taken
from immiscible.data.readers.arrays import DAMAGED
from immiscible.errors import InputError, one_line
from immiscible.seeds import generator

DATA_KEYS = ("images", "x", "latents", "actions", "arr_0")
LABEL_KEYS = ("labels", "y", "arr_1")
OBSERVATION_KEYS = ("observations", "obs", "conditions", "embeddings")
SUFFIXES = (".npy", ".npz", ".safetensors")


@dataclass(frozen=True, eq=False)
class Measured:
    r"""Some data, or all of them, in memory.

    Attributes:
        name: What messages call them.
        total: How many the source has.
        x: Those that are measured, ``float32`` with shape (N, \*).
        labels: The class of each, ``int64`` with shape (N,), or None.
        observations: What a model is conditioned on, ``float32`` with shape (N, c), or None.
        captions: Whether there are captions.
    """

    name: str
    total: int
    x: Tensor
    labels: Tensor | None = None
    observations: Tensor | None = None
    captions: bool = False

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one."""
        return tuple(self.x.shape[1:])

    @property
    def dims(self) -> int:
        """The numbers in one."""
        return self.x[0].numel()

    def mean(self) -> Tensor:
        """Their mean, with the shape of one."""
        return self.x.mean(0, dtype=torch.float64).float()

    def sample(self) -> Tensor:
        """What a cost space is fitted to: at most 4,096 of them."""
        return self.x[:4096]

    def standard_observations(self) -> Tensor | None:
        """The observations, each brought to mean 0 and unit variance."""
        if self.observations is None:
            return None
        return (self.observations - self.observations.mean(0)) / self.observations.std(0).clamp_min(1e-6)

    def prepared(self, device: torch.device | str, scale: float) -> Measured:
        """The same data on a device, multiplied by a scale; labels and observations stay where they are."""
        return dataclasses.replace(self, x=(self.x * scale if scale != 1 else self.x).to(device))


def read_measured(
    spec: str, options: ReadOptions, observations: str = "", most: int = 10_000, seed: int = 0
) -> Measured:
    """Reads data, or a random part of them.

    Arguments:
        spec: What ``--data`` takes, or a file of any shape.
        options: How images are read.
        observations: A file with a row of numbers for each datum, or nothing.
        most: At most how many are kept.
        seed: The seed of their choice.

    Raises:
        InputError: If they are none, are not finite, or the parts do not fit together.
    """
    path = Path(os.path.expanduser(spec))
    arrays = _opened(path) if _is_array(spec, options) else None
    found = _of_images(spec, options, most, seed) if arrays is None else _of_arrays(spec, arrays, options, most, seed)
    data, index = found
    if observations:
        data = _with_observations(data, observations, index)
    if not data.x.isfinite().all():
        raise InputError(f"`{data.name}` must be finite, got NaN or infinite values: check how they were made.")
    return data


def _is_array(spec: str, options: ReadOptions) -> bool:
    return options.image_size is None and spec.lower().endswith(SUFFIXES) and os.path.isfile(os.path.expanduser(spec))


def _chosen(total: int, most: int, seed: int) -> Tensor:
    """Which data, in order."""
    return torch.randperm(total, generator=generator("cpu", seed, "measured data"))[:most].sort().values


def _of_images(spec: str, options: ReadOptions, most: int, seed: int) -> tuple[Measured, Tensor]:
    images = reading.read(spec, options)
    index = _chosen(len(images), most, seed)
    x, labels = images.batch(index)
    return Measured(images.name, len(images), x, labels, None, bool(images.captions)), index


def _of_arrays(
    spec: str, arrays: Mapping[str, Callable[[], Any]], options: ReadOptions, most: int, seed: int
) -> tuple[Measured, Tensor]:
    name = os.path.basename(spec)
    x = arrays[_key(name, arrays)]()
    if _is_bytes(x):
        return _of_images(spec, options, most, seed)
    check_taken(spec, options, ())
    _check_rows(name, x, 0)
    index = _chosen(len(x), most, seed)
    labels, observations = (_first(arrays, keys) for keys in (LABEL_KEYS, OBSERVATION_KEYS))
    values = _floats(name, x, index)
    classes = None if labels is None else _classes(name, labels(), len(x))[index]
    rows = None if observations is None else _rows(name, observations(), len(x), index)
    return Measured(name, len(x), values, classes, rows), index


def _with_observations(data: Measured, spec: str, index: Tensor) -> Measured:
    """The same data with the observations of a file."""
    path = Path(os.path.expanduser(spec))
    if not (path.name.lower().endswith(SUFFIXES) and path.is_file()):
        raise InputError(f"--observations must be a {', '.join(SUFFIXES)} file, got {spec}.")
    arrays = _opened(path)
    key = next((key for key in OBSERVATION_KEYS if key in arrays), None) or _key(path.name, arrays)
    rows = _rows(path.name, arrays[key](), data.total, index)
    return dataclasses.replace(data, observations=rows)


def _opened(path: Path) -> dict[str, Callable[[], Any]]:
    """What reads each array of a file, by its name."""
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: _tensor(path, key) for key in file.keys()}  # noqa: SIM118
        with path.open("rb") as file:
            if path.suffix.lower() == ".npz":
                return _members(path, file)
            claims.check_npy(path.name, file, path.stat().st_size)
        return {"x": lambda: np.load(path, mmap_mode="r", allow_pickle=False)}
    except InputError:
        raise
    except (*DAMAGED, SafetensorError) as error:
        raise InputError(f"`{path.name}` must be a whole file of plain arrays, got: {one_line(error)}.") from error


def _tensor(path: Path, key: str) -> Callable[[], Tensor]:
    def read() -> Tensor:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(key)

    return read


def _members(path: Path, file: IO[bytes]) -> dict[str, Callable[[], Any]]:
    with zipfile.ZipFile(file) as archive:
        names = [member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")]
        claims.check_npz(path.name, archive, names)
    return {name: _member(path, name) for name in names}


def _member(path: Path, name: str) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
                return np.asarray(loaded[name])
        except DAMAGED as error:
            raise InputError(f"`{path.name}` must be a whole file of plain arrays, got: {one_line(error)}.") from error

    return read


def _key(name: str, keys: Collection[str]) -> str:
    """Which array is the data."""
    others = [key for key in keys if key not in (*LABEL_KEYS, *OBSERVATION_KEYS)]
    found = next((key for key in DATA_KEYS if key in keys), others[0] if len(others) == 1 else None)
    if found is None:
        raise InputError(
            f"`{name}` must hold its data under one of {', '.join(DATA_KEYS)}, got {', '.join(sorted(keys)) or 'none'}."
        )
    return found


def _first(arrays: Mapping[str, Callable[[], Any]], keys: Collection[str]) -> Callable[[], Any] | None:
    return next((arrays[key] for key in keys if key in arrays), None)


def _is_bytes(array: Any) -> bool:
    return array.dtype in (np.uint8, torch.uint8)


def _check_rows(name: str, array: Any, rows: int) -> None:
    """Checks that an array has a row for each datum, and numbers in it."""
    if array.ndim < 2 or 0 in array.shape:
        raise InputError(
            f"`{name}` must have shape (N, ...) with at least one number for each, got {tuple(array.shape)}."
        )
    if rows and len(array) != rows:
        raise InputError(f"`{name}` must have a row for each of the {rows} data, got {len(array)}.")


def _floats(name: str, array: Any, index: Tensor) -> Tensor:
    """Some rows as ``float32``."""
    values = array[index] if isinstance(array, Tensor) else torch.from_numpy(_plain(name, array[index.numpy()]))
    if not values.is_floating_point():
        raise InputError(
            f"`{name}` must hold floats, got {values.dtype}: save them as float32, scaled as for training."
        )
    return values.float()


def _plain(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise InputError(f"`{name}` must hold numbers, got {array.dtype}.")
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))


def _rows(name: str, array: Any, rows: int, index: Tensor) -> Tensor:
    """Observations as rows of numbers; whole numbers are numbers too."""
    array = array[:, None] if array.ndim == 1 else array
    _check_rows(name, array, rows)
    if not isinstance(array, Tensor):
        array = torch.from_numpy(_plain(name, array))
    values = array[index].float().flatten(1)
    if not values.isfinite().all():
        raise InputError(f"`{name}` must have finite observations, got NaN or infinite values.")
    return values


def _classes(name: str, labels: Any, count: int) -> Tensor:
    values = labels.numpy() if isinstance(labels, Tensor) else labels
    if values.shape not in ((count,), (count, 1)) or values.dtype.kind not in "biuU":
        raise InputError(
            f"`{name}`: labels must be integers or strings with shape ({count},), got {values.dtype} {values.shape}."
        )
    return number_classes(values.reshape(count))[0]
