"""Random changes of training images that leave them likely images: mirrored, or shifted by some pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from immiscible.errors import InputError


def augment(x: Tensor, *, flip: bool, shift: int, generator: torch.Generator) -> Tensor:
    """Mirrors each image with chance 1/2, and crops it at random out of itself with a reflected border.

    Arguments:
        x: Images, with shape (B, C, H, W).
        flip: Whether to mirror.
        shift: The width of the border, at least 0 and less than the image's sides.
        generator: The source of all randomness, on the device of ``x``. Without changes nothing is drawn;
            otherwise who is mirrored is drawn always and first, so that mirroring does not change the shifts.

    Returns:
        The images, with the same shape; ``x`` itself without changes.

    Raises:
        InputError: If the border is wider than what can be reflected.
    """
    if not flip and not shift:
        return x
    mirrored = torch.rand(len(x), generator=generator, device=x.device) < 0.5
    if flip:
        x = torch.where(mirrored[:, None, None, None], mirror(x), x)
    return _shifted(x, shift, generator) if shift else x


def mirror(x: Tensor) -> Tensor:
    """Images whose last dimension is their width, with left and right exchanged."""
    return x.flip(-1)


def _shifted(x: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    count, _, height, width = x.shape
    if shift >= min(height, width):
        raise InputError(f"--shift must be less than the sides of the images, {height} x {width}, got {shift}.")
    padded = F.pad(x, (shift,) * 4, mode="reflect").permute(0, 2, 3, 1)
    top, left = torch.randint(2 * shift + 1, (2, count), generator=generator, device=x.device)
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = left[:, None] + torch.arange(width, device=x.device)
    each = torch.arange(count, device=x.device)[:, None, None]
    return padded[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
