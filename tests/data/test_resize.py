"""Resizing arrays and files alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from immiscible.data import Images, load
from immiscible.data.resize import resized


@pytest.mark.parametrize(("height", "width"), [(9, 14), (14, 9), (8, 8)])
def test_the_middle_is_kept(height: int, width: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    data = Images("some", torch.stack([rows, columns]).to(torch.uint8)[None])
    top, left = max(0, height - width) // 2, max(0, width - height) // 2
    side = min(height, width)
    expected = data.pixels[:, :, top : top + side, left : left + side]
    assert_close(resized(data, side).pixels, expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [5, 8, 12, 40])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_and_files_are_resized_alike(tmp_path: Path, size: int, channels: int) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 21, 16, 3), dtype=np.uint8)[..., :channels]
    np.save(tmp_path / "some.npy", array)
    for i, image in enumerate(array.squeeze()):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    from_array = load(str(tmp_path / "some.npy"), image_size=size)
    from_files = load(str(tmp_path), image_size=size)
    assert from_array.pixels.shape == (3, channels, size, size)
    assert_close(from_array.pixels, from_files.pixels, rtol=0, atol=0)


@pytest.mark.parametrize("size", [3, 7, 12, 30])
def test_pillow_gives_the_same_but_for_its_rounding(size: int) -> None:
    image = Image.radial_gradient("L").resize((24, 24))
    data = Images("some", torch.from_numpy(np.array(image))[None, None])
    expected = torch.from_numpy(np.array(image.resize((size, size), Image.Resampling.BICUBIC)))
    assert_close(resized(data, size).pixels[0, 0].int(), expected.int(), rtol=0, atol=2)


def test_fine_stripes_become_grey() -> None:
    stripes = torch.zeros(300, 1, 32, 32, dtype=torch.uint8)
    stripes[..., ::2] = 255
    small = resized(Images("some", stripes), 4)
    assert len(small) == 300
    assert (small.pixels.float() - 127.5).abs().max() < 10


def test_bright_edges_do_not_turn_dark() -> None:
    """The bicubic filter overshoots at an edge, beyond what a byte can hold."""
    pixels = torch.full((1, 1, 6, 6), 255, dtype=torch.uint8)
    pixels[..., 3:] = 0
    large = resized(Images("some", pixels), 30).pixels.int()
    assert (large[..., 1:] <= large[..., :-1]).all()


def test_floats_stay_in_their_range_and_labels_stay() -> None:
    pixels = torch.ones(2, 1, 6, 6)
    pixels[..., 3:] = -1
    data = Images("some", pixels, torch.tensor([1, 0]), ("a", "b"))
    large = resized(data, 13)
    assert large.pixels.dtype == torch.float32
    assert (large.pixels.min().item(), large.pixels.max().item()) == (-1, 1)
    assert large.labels is data.labels
    assert large.class_names == ("a", "b")
