"""Grids of images as PNG files."""

from __future__ import annotations

import io
import math
from pathlib import Path

import torch
from torch import Tensor

from immiscible.io.files import write_bytes

# Small images are enlarged by whole factors so that a cell has about this many pixels.
CELL = 48


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as bytes, with the same shape; values outside are clipped."""
    return (images.float().clamp(-1, 1).add(1).mul(127.5).round()).to(torch.uint8)


def write_grid(path: Path, images: Tensor, columns: int = 0) -> None:
    """Writes images with shape (B, C, H, W), C of 1 or 3, in [-1, 1], as one PNG, by default as square as can be."""
    write_bytes(path, encode_grid(images, columns))


def encode_grid(images: Tensor, columns: int = 0) -> bytes:
    """The bytes of that file."""
    return encode_png(tile(images, columns or math.ceil(math.sqrt(len(images)))))


def tile(images: Tensor, columns: int) -> Tensor:
    """Lays images with shape (B, C, H, W) out in rows, with shape (C, H', W'), enlarged, with a margin of one pixel."""
    factor = max(1, CELL // max(images.shape[-2:]))
    cells = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    cells = torch.nn.functional.pad(cells, (1, 1, 1, 1), value=1.0)
    missing = -len(cells) % columns
    cells = torch.cat([cells, cells.new_ones(missing, *cells.shape[1:])])
    count, channels, height, width = cells.shape
    rows = cells.view(count // columns, columns, channels, height, width)
    return rows.permute(2, 0, 3, 1, 4).reshape(channels, count // columns * height, columns * width)


def encode_png(image: Tensor) -> bytes:
    """One image with shape (C, H, W), C of 1 or 3, in [-1, 1], as the bytes of a PNG file."""
    from PIL import Image

    pixels = to_uint8(image.cpu()).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
