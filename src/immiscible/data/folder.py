"""Images from a folder of PNG and JPEG files.

*Labels*: either all images lie in the folder itself, and have no labels, or all lie in sub-folders, and the first level
of sub-folders gives the classes. Files are taken in the order of their paths; hidden ones and other kinds are ignored.

*Colour*: grey files give one channel, colour and palette files three. Transparent pixels are laid over black. Images
with more than 8 bits per channel of grey are refused. JPEG photographs are turned upright as their EXIF data says.

*Size*: all files must have one size and be all grey or all in colour. With an image size they are made so: cropped and
resized, and in colour if any of them is.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from immiscible.data.images import Images, number_classes
from immiscible.data.resize import central_square
from immiscible.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")
GREY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I", "F")
# EXIF orientations that swap height and width.
SIDEWAYS = (5, 6, 7, 8)
# What Pillow raises for damaged files of these formats.
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, OverflowError, MemoryError, struct.error, zlib.error)


def read(folder: Path, image_size: int | None = None) -> Images:
    """Reads a folder, see this module's description.

    Arguments:
        folder: The folder.
        image_size: Crops and resizes every image to a square with this side.

    Raises:
        InputError: If there are no images, or one is damaged or unlike the others; it names the file.
    """
    files, classes = _listing(folder)
    channels, height, width = _common_shape(folder, files, image_size)
    pixels = torch.empty(len(files), channels, height, width, dtype=torch.uint8)
    for row, file in zip(pixels, files, strict=True):
        row.copy_(_decode(file, channels, image_size))
    name = folder.resolve().name
    return Images(name, pixels, *number_classes(np.array(classes))) if classes else Images(name, pixels)


def _listing(folder: Path) -> tuple[list[Path], list[str]]:
    """The images, and the class of each, or no classes at all."""
    flat, nested = [], []
    for entry in _visible(folder):
        if entry.is_dir():
            nested += [(file, entry.name) for file in _images_below(entry)]
        elif entry.suffix.lower() in SUFFIXES:
            flat.append(entry)
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


def _common_shape(folder: Path, files: list[Path], image_size: int | None) -> tuple[int, int, int]:
    """The shape of all images, read from their headers, before any is decoded."""
    channels, sizes = zip(*(_header(file) for file in files), strict=True)
    if image_size is not None:
        return max(channels), image_size, image_size
    for file, *found in zip(files, channels, sizes, strict=True):
        if found != [channels[0], sizes[0]]:
            raise InputError(
                f"`{folder}` must hold images of one size and colour, got {_told(channels[0], sizes[0])} first and "
                f"{_told(*found)} in {os.path.relpath(file, folder)}: make them alike with `--image-size N`."
            )
    return channels[0], *sizes[0]


def _told(channels: int, size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]} {'grey' if channels == 1 else 'colour'}"


def _header(file: Path) -> tuple[int, tuple[int, int]]:
    """The number of channels, and the height and width."""
    with _opened(file) as image:
        if image.mode.startswith(DEEP_MODES):
            raise InputError(f"`{file}` must have 8 bits per channel, got more (mode {image.mode}): convert it.")
        width, height = image.size
        if image.format == "JPEG" and image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS:
            width, height = height, width
        return 1 if image.mode in GREY_MODES else 3, (height, width)


def _decode(file: Path, channels: int, image_size: int | None) -> Tensor:
    """One image as bytes with shape (C, H, W)."""
    with _opened(file) as opened:
        image = ImageOps.exif_transpose(opened) if opened.format == "JPEG" else opened
        if image.has_transparency_data:
            black = Image.new("RGBA", image.size, "black")
            image = Image.alpha_composite(black, image.convert("RGBA"))
        image = image.convert("L" if channels == 1 else "RGB")
        pixels = torch.from_numpy(np.array(image))
    pixels = pixels[None] if channels == 1 else pixels.permute(2, 0, 1)
    return pixels if image_size is None else central_square(pixels[None], image_size)[0]


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Opens an image; whatever is wrong with it, also later while it is used, becomes one line that names it."""
    try:
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            yield image
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"`{file}` must be of a usual size, got: {error}") from error
    except DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"`{file}` must be a whole PNG or JPEG image, got: {reason.rstrip('.')}: replace or delete it."
        ) from error
