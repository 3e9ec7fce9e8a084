"""Decodes many pictures into one array, and counts those that cannot be read.

*Formats*: PNG, JPEG, WebP, AVIF (where Pillow has it), TIFF, BMP, GIF and PNM, whatever the ending of their names says.
Of pictures with several frames the first is taken; they are counted.

*Colour*: grey files give one channel, colour and palette files three. Transparent pixels are laid over black. Pictures
with more than 8 bits per channel are refused, since rounding could leave nothing of them. All formats are turned
upright as their EXIF data says.

*Size*: all images must have one size and be all grey or all in colour. With an image size they are made so: cropped and
resized, and in colour if any of them is.

*Damage*: all images are tried. Those that cannot be read are named and counted, and either stop the reading or are left
out.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from immiscible.data import png_texts as png
from immiscible.data.resize import central_square
from immiscible.data.threads import at_once
from immiscible.errors import InputError, one_line, shown

GREY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I", "F")
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM")
# Part of the keys of caches. To be changed when the same file is to give other pixels.
RULES = "pictures of all formats upright"
# A second picture in a photograph is its preview.
SINGLE = ("JPEG", "MPO")
UNREADABLE = "images that cannot be read"
ANIMATED = "pictures with several frames, of which the first is taken"
# EXIF orientations that swap height and width.
SIDEWAYS = (5, 6, 7, 8)
# What Pillow raises for damaged files of these formats.
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, OverflowError, MemoryError, struct.error, zlib.error)
# How many damaged images a message names.
NAMED = 3

Content = Path | io.BytesIO


@dataclass(frozen=True)
class Encoded:
    """Images as they lie in files or in the rows of a table.

    Attributes:
        where: What messages call the whole.
        names: What messages call each.
        content: Gives the content of the image at an index, to be decoded; called from several threads.
    """

    where: str
    names: Sequence[str]
    content: Callable[[int], Content]

    def __len__(self) -> int:
        return len(self.names)


class Corrupt(Exception):
    """An image that cannot be read."""


@dataclass
class Damages:
    """How many images could not be read, and the first of them by name, each with the reason.

    Attributes:
        skip: Whether they are to be left out.
        count: How many there are.
        named: The first of them.
        notes: How many images were read in part only, by the reason.
    """

    skip: bool
    count: int = 0
    named: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def noted(self, name: str) -> Iterator[None]:
        """Notes an image that turns out to be corrupt."""
        try:
            yield
        except Corrupt as error:
            self.count += 1
            if self.count <= NAMED:
                self.named.append(f"{name} ({error})")

    def settle(self, where: str, total: int) -> None:
        """Says that images are left out, where that was asked for.

        Raises:
            InputError: If there are any, and it was not.
        """
        if not self.count:
            return
        named = ", ".join([*self.named, *(["..."] if self.count > len(self.named) else [])])
        told = f"`{where}`: {self.count} of {total} images cannot be read: {named}"
        if not self.skip or self.count == total:
            raise InputError(f"{told}: replace or delete them{'' if self.skip else ', or add --skip-corrupt'}.")
        tell_left_out(told)


def tell_left_out(told: str) -> None:
    """Says on the standard error that images are left out."""
    print(f"{shown(told)}: left out.", file=sys.stderr)


def common_shape(images: Encoded, image_size: int | None, damages: Damages) -> tuple[tuple[int, int, int], list[int]]:
    """The shape of all images, read from their headers, before any is decoded, and the indices of those that have one.

    Raises:
        InputError: If they differ and no image size is given, or none can be read.
    """
    headers: dict[int, tuple[int, tuple[int, int]]] = {}
    for index, name in enumerate(images.names):
        with damages.noted(name):
            headers[index] = _header(images.content(index), name, image_size is None, damages.notes)
    if not headers:
        damages.settle(images.where, len(images))
    first = next(iter(headers.values()))
    if image_size is not None:
        return (max(channels for channels, _ in headers.values()), image_size, image_size), list(headers)
    for index, header in headers.items():
        if header != first:
            raise InputError(
                f"`{images.where}` must hold images of one size and colour, got {_told(*first)} first and "
                f"{_told(*header)} in {images.names[index]}: make them alike with `--image-size N`."
            )
    return (first[0], *first[1]), list(headers)


def fill(
    images: Encoded, wanted: Sequence[int], out: Tensor, image_size: int | None, damages: Damages
) -> Iterator[int]:
    """Decodes images into the rows of an array, with shape (N, C, H, W), those that can be read without gaps.

    Yields:
        The index of each image that filled the next row.
    """

    def decode(index: int) -> Tensor:
        return _decode(images.content(index), out.shape[1], image_size)

    row = 0
    for index, decoded in at_once(decode, wanted):
        with damages.noted(images.names[index]):
            pixels = decoded.result()
            if pixels.shape != out.shape[1:]:
                raise Corrupt(f"{_told_shape(pixels.shape)} where its header says {_told_shape(out.shape[1:])}")
            out[row] = pixels
            row += 1
            yield index


def decode_like(shape: Sequence[int], content: Content, name: str, where: str, image_size: int | None) -> Tensor:
    """Decodes an image that comes after others whose shape (C, H, W) is known, as bytes with that shape.

    A grey image among coloured ones is put in colour.

    Raises:
        Corrupt: If it cannot be read.
        InputError: If it is in colour among grey ones, or of another size and no image size is given.
    """
    with _opened(content) as opened:
        channels, size = _header_of(opened, name, image_size is None)
        if channels > shape[0] or (image_size is None and size != tuple(shape[1:])):
            raise InputError(
                f"`{where}` must hold images like its first, {_told(shape[0], (shape[1], shape[2]))}, got "
                f"{_told(channels, size)} in {name}: make them alike{'' if image_size else ' with `--image-size N`'}."
            )
        return _pixels(opened, shape[0], image_size)


def _told(channels: int, size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]} {'grey' if channels == 1 else 'colour'}"


def _told_shape(shape: Sequence[int]) -> str:
    return _told(shape[0], (shape[1], shape[2]))


def _header(content: Content, name: str, sized: bool, notes: Counter[str]) -> tuple[int, tuple[int, int]]:
    """The number of channels, and the height and width, which count where images are not resized."""
    with _opened(content) as image:
        if image.format not in SINGLE and getattr(image, "is_animated", False):
            notes[ANIMATED] += 1
        return _header_of(image, name, sized)


def _header_of(image: Image.Image, name: str, sized: bool) -> tuple[int, tuple[int, int]]:
    """The same of an image that is open."""
    if image.mode.startswith(DEEP_MODES) or _is_deep(image):
        raise InputError(
            f"`{name}` must have 8 bits per channel, got more (mode {image.mode}): convert it, so that its values fill "
            "0 to 255."
        )
    if sized and image.width != image.height and image.format == "TIFF":
        # Pillow turns these itself, when it reads them.
        image.load()
    width, height = image.size
    if sized and width != height and _orientation(image) in SIDEWAYS:
        width, height = height, width
    return 1 if image.mode in GREY_MODES else 3, (height, width)


def _is_deep(image: Image.Image) -> bool:
    """Whether Pillow cuts 16 bits per channel to 8."""
    # What a decoder unpacks is the first of its arguments, or the only one.
    told = [tile[3] for tile in getattr(image, "tile", ())]
    return any(";16" in str(arguments) for arguments in told)


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, without decoding an image that has none."""
    if image.format == "PNG" and not image.info.keys() & {"exif", "Raw profile type exif", "XML:com.adobe.xmp"}:
        return None
    return image.getexif().get(ExifTags.Base.Orientation)


def _decode(content: Content, channels: int, image_size: int | None) -> Tensor:
    """One image as bytes with shape (C, H, W)."""
    with _opened(content) as opened:
        return _pixels(opened, channels, image_size)


def _pixels(opened: Image.Image, channels: int, image_size: int | None) -> Tensor:
    """The same of an image that is open."""
    opened.load()
    image = ImageOps.exif_transpose(opened)
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, "black")
        image = Image.alpha_composite(black, image.convert("RGBA"))
    image = image.convert("L" if channels == 1 else "RGB")
    pixels = torch.from_numpy(np.array(image))
    pixels = pixels[None] if channels == 1 else pixels.permute(2, 0, 1)
    return pixels if image_size is None else central_square(pixels[None], image_size)[0]


@contextmanager
def _opened(content: Content) -> Iterator[Image.Image]:
    """Opens an image; whatever is wrong with it, also later while it is used, makes it a corrupt one."""
    try:
        with _file(content) as file:
            if not file.read(1):
                raise Corrupt("an empty file")
            file.seek(0)
            with Image.open(png.readable(file), formats=FORMATS) as image:
                yield image
    except (InputError, Corrupt):
        raise
    except Image.UnidentifiedImageError as error:
        raise Corrupt("no picture of a kind that is read here") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, *DAMAGE) as error:
        raise Corrupt(one_line(error)) from error


def _file(content: Content) -> IO[bytes]:
    return content.open("rb") if isinstance(content, Path) else content
