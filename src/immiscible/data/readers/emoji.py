"""Emoji of the font Noto Color Emoji, each with its Unicode name as its caption: captioned images without download.

The font comes with Linux distributions (Debian: ``fonts-noto-color-emoji``); ``$IMMISCIBLE_EMOJI_FONT`` names another
place. Every character of its own that the font draws and Unicode names is taken, about 1,400, on white.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from immiscible.config.groups import ReadOptions
from immiscible.data.images import Images
from immiscible.data.resize import central_square
from immiscible.errors import InputError

NAME = "emoji"
TAKES = ()
FILE = "NotoColorEmoji.ttf"
PLACES = ("/usr/share/fonts/truetype/noto", "/usr/share/fonts/noto", "/usr/share/fonts/google-noto-emoji", "~/.fonts")
# The size in which the font holds its pictures, 136 x 128 pixels, and a square that has room for them.
POINTS, SIDE = 109, 136
TOP = (SIDE - 128) // 2
DEFAULT_SIZE = 64


def matches(spec: str) -> bool:
    """Whether the emoji are meant."""
    return spec == NAME


def read(spec: str, options: ReadOptions) -> Images:
    """The emoji, as RGB images with shape (N, 3, size, size), 64 pixels by default, and their names as captions.

    Raises:
        InputError: If the font is not there, or Pillow cannot draw it.
    """
    path = find()
    try:
        font = ImageFont.truetype(str(path), POINTS)
        drawn = {name: _draw(character, font) for character, name in _characters(path)}
    except OSError as error:
        raise InputError(f"the data `emoji` needs a font that Pillow can draw, got {path}: {error}.") from error
    pictures = {name: picture for name, picture in drawn.items() if picture is not None}
    pixels = central_square(torch.stack(list(pictures.values())), options.image_size or DEFAULT_SIZE)
    return Images(NAME, pixels, captions=tuple(pictures))


def find() -> Path:
    """Where the font lies."""
    chosen = os.environ.get("IMMISCIBLE_EMOJI_FONT")
    paths = [Path(chosen)] if chosen else [Path(place).expanduser() / FILE for place in PLACES]
    for path in paths:
        if path.is_file():
            return path
    raise InputError(
        f"the data `emoji` needs the font {FILE}, got none at {', '.join(map(str, paths))}: install it (Debian: `apt "
        "install fonts-noto-color-emoji`), or set IMMISCIBLE_EMOJI_FONT to its path."
    )


def _characters(path: Path) -> list[tuple[str, str]]:
    """The characters of the font that have a name, and their names in small letters."""
    from fontTools.ttLib import TTFont

    with TTFont(path, lazy=True) as font:
        points = sorted(font.getBestCmap() or {})
    named = [(chr(point), unicodedata.name(chr(point), "")) for point in points]
    return [(character, name.lower()) for character, name in named if name]


def _draw(character: str, font: ImageFont.FreeTypeFont) -> Tensor | None:
    """One emoji on white with shape (3, SIDE, SIDE), or nothing for characters that draw nothing, such as joiners."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(image).text((0, TOP), character, font=font, embedded_color=True)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return None if bool((pixels == 255).all()) else pixels
