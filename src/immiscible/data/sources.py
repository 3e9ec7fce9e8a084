"""Finds the reader for what a user calls their data."""

from __future__ import annotations

import os
from pathlib import Path

from immiscible.data.images import Images
from immiscible.data.resize import resized
from immiscible.errors import InputError

ALLOWED = "`digits`, `fashion-mnist`, a .npy, .npz or IDX file, or a folder of PNG/JPEG images"


def load(
    spec: str,
    *,
    image_size: int | None = None,
    split: str = "train",
    image_column: str = "",
    label_column: str = "",
    skip_corrupt: bool = False,
) -> Images:
    """Loads images into memory.

    Arguments:
        spec: ``digits`` (scikit-learn's 1,797 images of 8x8 pixels), or the path of a ``.npy`` or ``.npz`` file, see
            :mod:`immiscible.data.arrays`, or of a folder of PNG or JPEG images, see :mod:`immiscible.data.folder`.
            A folder that is itself called ``digits`` is spelled ``./digits``.
        image_size: Crops the largest square from the middle and resizes it to this many pixels a side, with
            antialiasing. Without it images keep their size, which must then be the same for all.

    Raises:
        InputError: If there is no such source, or it holds something else than images, or they do not fit together.

    Example:
        >>> load("digits").shape
        (1, 8, 8)
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"`image_size` must be at least 1, got {image_size}.")
    try:
        images = _read(spec, image_size, split)
    except OSError as error:
        raise InputError(f"`{spec}` must be readable, got: {error}.") from error
    return images if image_size is None else resized(images, image_size)


def _read(spec: str, image_size: int | None, split: str) -> Images:
    """Each reader is imported only where it is used, since most need a library of their own."""
    if spec == "digits":
        from immiscible.data import digits

        return digits.read()
    if spec == "fashion-mnist":
        from immiscible.data import idx

        return idx.read_fashion_mnist(split)
    path = Path(spec).expanduser()
    if spec and os.path.isdir(path):
        from immiscible.data import folder

        return folder.read(path, image_size)
    if os.path.isfile(path) and path.suffix.lower() in (".npy", ".npz"):
        from immiscible.data import arrays

        return arrays.read(path)
    problem = "which is none of these" if os.path.exists(path) and spec else "but there is no such path"
    raise InputError(f"data must be {ALLOWED}, got `{spec}`, {problem}.")
