"""Brings images to one size: the largest square in the middle, resized with an antialiased bicubic filter."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from immiscible.data.images import CHUNK, Images


def resized(images: Images, size: int) -> Images:
    """Crops and resizes all images to ``size`` by ``size`` pixels."""
    if images.shape[1:] == (size, size):
        return images
    pixels = images.pixels.new_empty(len(images), images.shape[0], size, size)
    for part, out in zip(images.pixels.split(CHUNK), pixels.split(CHUNK), strict=True):
        out.copy_(central_square(part, size))
    return dataclasses.replace(images, pixels=pixels, digest="")


def central_square(pixels: Tensor, size: int) -> Tensor:
    """Crops the largest square from the middle and resizes it.

    Arguments:
        pixels: Images, with shape (N, C, H, W), ``uint8`` or ``float32`` in [-1, 1].
        size: The side of the result.

    Returns:
        The squares, of the same type and in the same range, with shape (N, C, size, size).
    """
    height, width = pixels.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[..., top : top + side, left : left + side]
    if side == size:
        return square
    result = F.interpolate(square.to(torch.float32), size=(size, size), mode="bicubic", antialias=True)
    if pixels.dtype == torch.uint8:
        return result.round_().clamp_(0, 255).to(torch.uint8)
    return result.clamp_(-1, 1)
