"""Images from a folder of PNG and JPEG files, see :mod:`immiscible.data.decoding` for what is read how.

*Labels*: either all images lie in the folder itself, and have no labels, or all lie in sub-folders, and the first level
of sub-folders gives the classes; where the folder has captions in a metadata file, sub-folders are no classes.
Captions come as :mod:`immiscible.data.captions` says. Files are taken in the order of their paths; hidden ones and
other kinds are ignored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from immiscible.data import cache
from immiscible.data.captions import find_captions, has_metadata
from immiscible.data.decoding import Encoded
from immiscible.data.gather import gather
from immiscible.data.images import Images
from immiscible.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")


def read(folder: Path, image_size: int | None = None, skip_corrupt: bool = False) -> Images:
    """Reads a folder, see this module's description.

    Arguments:
        folder: The folder.
        image_size: Crops and resizes every image to a square with this side.
        skip_corrupt: Whether to leave out images that cannot be read.

    Raises:
        InputError: If there are no images, or some cannot be read or are unlike the others; it names the files.
    """
    files, classes = _listing(folder)
    names = [os.path.relpath(file, folder) for file in files]
    encoded = Encoded(str(folder), names, files.__getitem__)
    captions = find_captions(folder, files, names)
    key = cache.key_of([f"{image_size} {skip_corrupt}", *map(_state, files, names), *captions])
    return gather(
        encoded,
        classes or None,
        folder.resolve().name,
        image_size=image_size,
        skip_corrupt=skip_corrupt,
        key=key,
        captions=captions,
    )


def _state(file: Path, name: str) -> str:
    """What changes when a file does; one that is not there is found out when it is to be read."""
    try:
        found = file.stat()
    except OSError as error:
        return f"{name} {error.errno}"
    return f"{name} {found.st_size} {found.st_mtime_ns}"


def _listing(folder: Path) -> tuple[list[Path], list[str]]:
    """The images, and the class of each, or no classes at all."""
    flat, nested = [], []
    for entry in _visible(folder):
        if entry.is_dir():
            nested += [(file, entry.name) for file in _images_below(entry)]
        elif entry.suffix.lower() in SUFFIXES:
            flat.append(entry)
    if has_metadata(folder):
        flat, nested = flat + [file for file, _ in nested], []
    if flat and nested:
        raise InputError(
            f"`{folder}` must have its images either in itself or all in sub-folders, one per class, "
            f"got both, such as {flat[0].name} and {nested[0][0].relative_to(folder)}: move them."
        )
    if not flat and not nested:
        raise InputError(f"`{folder}` must hold PNG or JPEG images, or sub-folders of them, one per class: found none.")
    return flat or [file for file, _ in nested], [name for _, name in nested]


def _visible(folder: Path) -> list[Path]:
    return sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _images_below(folder: Path) -> Iterator[Path]:
    for entry in _visible(folder):
        if entry.is_dir() and not entry.is_symlink():
            yield from _images_below(entry)
        elif entry.suffix.lower() in SUFFIXES:
            yield entry
