"""Brings images to one size: the largest square in the middle, resized with an antialiased bicubic filter."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from immiscible.data.images import CHUNK, Images


def central_square(height: int, width: int) -> tuple[int, int, int]:
    """The top, the left and the side of the largest square in the middle of an image."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def resized(images: Images, size: int) -> Images:
    """Crops and resizes all images to ``size`` by ``size`` pixels. Bytes stay bytes; the range stays what it was."""
    if images.shape[1:] == (size, size):
        return images
    top, left, side = central_square(*images.shape[1:])
    squares = images.pixels[..., top : top + side, left : left + side]
    pixels = torch.cat([_resize(chunk, size) for chunk in squares.split(CHUNK)])
    return dataclasses.replace(images, pixels=pixels)


def _resize(pixels: Tensor, size: int) -> Tensor:
    low, high = (0, 255) if pixels.dtype == torch.uint8 else (-1, 1)
    result = F.interpolate(pixels.to(torch.float32), size=(size, size), mode="bicubic", antialias=True)
    result = result.clamp_(low, high)
    return result.round_().to(torch.uint8) if pixels.dtype == torch.uint8 else result
