"""Images from a ``.npy`` or ``.npz`` file of NumPy.

*Keys* of an ``.npz``: images under ``images``, ``x`` or ``arr_0``, or else the only array that holds no labels; labels
under ``labels``, ``y`` or ``arr_1``, and they may be absent.

*Values*: ``uint8`` from 0 to 255, or floats in [-1, 1]. Floats in [0, 1] are taken as they are, as grey to white: to
use the whole range, save ``2 * x - 1``.

*Layouts*: (N, H, W) is grey. Of four axes, the second or the last must have length 1 (grey) or 3 (RGB), and is the axis
of the channels. Where both could be, or where three axes look like one single colour image, the layout is refused
instead of guessed.

*Labels*: integers, booleans or strings, with shape (N,) or (N, 1). Classes are numbered from 0 in sorted order and keep
their originals as names, so that gaps and negative labels do no harm.

Pickled objects are never loaded.
"""

from __future__ import annotations

import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from immiscible.config.groups import ReadOptions
from immiscible.data import claims
from immiscible.data.captions import encodable
from immiscible.data.images import Images, number_classes
from immiscible.errors import InputError, one_line

TAKES = ()
IMAGE_KEYS = ("images", "x", "arr_0")
LABEL_KEYS = ("labels", "y", "arr_1")
CHANNELS = (1, 3)
ZIPPED = (b"PK\x03\x04", b"PK\x05\x06")
# Rounding may leave floats this far outside [-1, 1].
SLACK = 1e-5
# What NumPy and the modules under it raise for a file that is damaged, encrypted or packed in a way they do not know,
# or whose header promises more than fits into memory.
DAMAGED = (
    EOFError,
    KeyError,
    MemoryError,
    OSError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    ValueError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def matches(spec: str) -> bool:
    """Whether data is a file of NumPy, by its name."""
    path = os.path.expanduser(spec)
    return os.path.isfile(path) and path.lower().endswith((".npy", ".npz"))


def read(spec: str, options: ReadOptions) -> Images:
    """Reads a file, see this module's description.

    Raises:
        InputError: If the file is damaged, holds something else than images, or the layout is ambiguous.
    """
    path = Path(os.path.expanduser(spec))
    images, labels = _arrays(path)
    pixels = _pixels(path.name, _channels_first(path.name, images))
    if labels is None:
        return Images(path.name, pixels)
    return Images(path.name, pixels, *number_classes(_checked_labels(path.name, labels, len(pixels))))


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The array of images, and the one of labels if there is one."""
    try:
        # NumPy leaves a damaged .npz open that it opened itself.
        with path.open("rb") as file:
            # As NumPy tells them apart.
            packed = file.read(len(ZIPPED[0])) in ZIPPED
            file.seek(0)
            if packed:
                return _from_archive(path.name, file)
            claims.check_npy(path.name, file, path.stat().st_size)
            file.seek(0)
            return np.load(file, allow_pickle=False), None
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(
            f"`{path.name}` must be a whole NumPy file without pickled objects, got: {one_line(error)}: "
            "save plain arrays with `numpy.save` or `numpy.savez`."
        ) from error


def _from_archive(name: str, file: IO[bytes]) -> tuple[np.ndarray, np.ndarray | None]:
    with zipfile.ZipFile(file) as archive:
        # Other files of an archive are none of NumPy's.
        names = [member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")]
        image_key, label_key = _keys(name, names)
        claims.check_npz(name, archive, [image_key, *([label_key] if label_key else [])])
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        return np.asarray(loaded[image_key]), np.asarray(loaded[label_key]) if label_key else None


def _keys(name: str, keys: list[str]) -> tuple[str, str | None]:
    label_key = next((key for key in LABEL_KEYS if key in keys), None)
    rest = [key for key in keys if key != label_key] or keys
    image_key = next((key for key in IMAGE_KEYS if key in rest), rest[0] if len(rest) == 1 else None)
    if image_key is None:
        raise InputError(
            f"`{name}` must hold its images under one of {', '.join(IMAGE_KEYS)}, got "
            f"{', '.join(sorted(keys)) or 'no array at all'}: save it with `numpy.savez(file, images=x, labels=y)`."
        )
    return image_key, label_key if label_key != image_key else None


def _channels_first(name: str, array: np.ndarray) -> np.ndarray:
    """Brings the axes into the order (N, C, H, W)."""
    layouts = "images must have shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3"
    if array.ndim == 3:
        if len(array) in CHANNELS or array.shape[-1] in CHANNELS:
            raise InputError(
                f"`{name}`: {layouts}, got the ambiguous {array.shape}: "
                "one image is saved as `x[None]`, grey ones as `x[:, None]`."
            )
        return array[:, None]
    if array.ndim != 4:
        hint = ": restore the height and width with `reshape`" if array.ndim == 2 else ""
        raise InputError(f"`{name}`: {layouts}, got {array.shape}{hint}.")
    first, last = array.shape[1] in CHANNELS, array.shape[-1] in CHANNELS
    if first and last:
        raise InputError(
            f"`{name}`: {layouts}, got the ambiguous {array.shape}: images must be wider than 3 pixels to tell."
        )
    if not first and not last:
        alpha = 4 in (array.shape[1], array.shape[-1])
        hint = ": drop the alpha channel with `x[..., :3]` or `x[:, :3]`" if alpha else ""
        raise InputError(f"`{name}`: {layouts}, got {array.shape}{hint}.")
    return array if first else np.moveaxis(array, -1, 1)


def _pixels(name: str, array: np.ndarray) -> Tensor:
    if array.size == 0:
        raise InputError(f"`{name}` must hold at least one image, got shape {array.shape}.")
    if array.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(array))
    if not np.issubdtype(array.dtype, np.floating):
        scale = " * 255" if array.dtype == np.bool_ else ""
        raise InputError(
            f"`{name}`: images must be uint8 or floats in [-1, 1], got {array.dtype}: "
            f"save 0..255 as `x.astype(numpy.uint8){scale}`."
        )
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise InputError(f"`{name}`: images must be finite, got NaN or infinite values: check how they were made.")
    if max(-low, high) > 1 + SLACK:
        fix = "save them as `x.astype(numpy.uint8)`" if low >= 0 and 1 + SLACK < high <= 255 else "rescale them"
        raise InputError(f"`{name}`: float images must lie in [-1, 1], got {low:.4g} to {high:.4g}: {fix}.")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).clamp_(-1, 1)


def _checked_labels(name: str, labels: np.ndarray, count: int) -> np.ndarray:
    if labels.shape not in ((count,), (count, 1)):
        raise InputError(f"`{name}`: labels must have shape ({count},), one per image, got {labels.shape}.")
    if labels.dtype.kind == "U" and not all(map(encodable, labels.flat)):
        raise InputError(f"`{name}`: labels must be in Unicode, got halves of pairs: write them again.")
    if labels.dtype.kind not in "biuU":
        raise InputError(
            f"`{name}`: labels must be integers or strings, got {labels.dtype}: save `labels.astype(numpy.int64)`."
        )
    return labels.reshape(count)
