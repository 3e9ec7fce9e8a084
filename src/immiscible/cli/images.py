"""Images as a command writes them: a grid, an archive, or a directory that is filled bit by bit and can be resumed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from immiscible.io.files import write_bytes
from immiscible.io.locks import locked
from immiscible.io.outputs import IMAGES, check_output, claim, clear
from immiscible.io.png import encode_png, to_uint8, write_grid

SUFFIXES = (".png", ".npz")


def is_file(out: Path) -> bool:
    """Whether a name is a file's. All others are directories."""
    return out.suffix in SUFFIXES


def check_images(out: Path, inputs: Sequence[Path], overwrite: bool = False) -> None:
    """Checks that images may be written to a place, see :func:`check_output`."""
    check_output(out, "images", suffixes=SUFFIXES, inputs=inputs, overwrite=overwrite)


@contextmanager
def alone(out: Path, overwrite: bool = False, *, together: bool = False) -> Iterator[None]:
    """Holds the lock of a place for images, see :func:`locked`."""
    with locked(out, directory=not is_file(out), together=together, check=lambda: check_images(out, (), overwrite)):
        yield


def write_file(out: Path, images: Tensor, labels: Tensor | None) -> None:
    """Writes a grid or an archive, by the name."""
    if out.suffix == ".png":
        write_grid(out, images)
    else:
        write_bytes(out, _archive(images, labels))


def fill(
    out: Path, count: int, size: int, draw: Callable[[slice], Tensor], identity: dict[str, Any], overwrite: bool = False
) -> int:
    """Writes a PNG for each image into a directory, and draws only those that are not there.

    Arguments:
        out: The directory, locked.
        count: How many images.
        size: How many are drawn at once. What is drawn together never changes, so the images do not either.
        draw: Draws some of them, with shape (B, C, H, W) in [-1, 1].
        identity: What distinguishes these images from others.
        overwrite: Whether to remove the images that are there.

    Returns:
        How many images were drawn.

    Raises:
        InputError: If the directory holds other images, or something else.
    """
    if overwrite:
        clear(out)
    claim(out, "images", identity, "give another --out, or add --overwrite")
    drawn = 0
    for first in range(0, count, size):
        block = range(first, min(first + size, count))
        missing = [index for index in block if not (out / _name(index)).is_file()]
        if missing:
            images = draw(slice(block.start, block.stop))
            for index in missing:
                write_bytes(out / _name(index), encode_png(images[index - first]))
            drawn += len(block)
    # A finished directory holds images only.
    (out / IMAGES).unlink()
    return drawn


def _name(index: int) -> str:
    return f"{index:06d}.png"


def _archive(images: Tensor, labels: Tensor | None) -> bytes:
    """The bytes of a .npz file."""
    pixels = to_uint8(images).permute(0, 2, 3, 1).numpy()
    buffer = io.BytesIO()
    if labels is None:
        np.savez_compressed(buffer, images=pixels)
    else:
        np.savez_compressed(buffer, images=pixels, labels=labels.cpu().numpy())
    return buffer.getvalue()
