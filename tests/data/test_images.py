"""What a set of images holds and how batches of it come out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from immiscible.data import Images
from immiscible.data.images import evenly_spaced
from immiscible.errors import InputError


def some_bytes(count: int = 7, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, 5, 11), generator=generator, dtype=torch.uint8)


def labelled(labels: list[int], names: tuple[str, ...] = ("a", "b")) -> Images:
    return Images("some", some_bytes(len(labels)), torch.tensor(labels), names)


def test_bytes_map_to_the_whole_range() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    x, labels = Images("some", pixels).batch([0, 1, 2])
    assert x.dtype == torch.float32
    assert labels is None
    assert_close(x.flatten(), torch.tensor([-1.0, -0.6, 1.0]))


def test_a_batch_keeps_images_and_labels_together() -> None:
    data = labelled([0, 1, 1, 0, 1])
    for index in (torch.tensor([4, 0, 3]), [4, 0, 3]):
        x, labels = data.batch(index)
        assert labels is not None
        assert labels.tolist() == [1, 0, 0]
        assert_close((x + 1) * 127.5, data.pixels[[4, 0, 3]].float())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_changing_a_batch_changes_no_data(dtype: torch.dtype) -> None:
    pixels = some_bytes() if dtype == torch.uint8 else some_bytes() / 255
    data = Images("some", pixels)
    before = pixels.clone()
    data.batch([0, 1])[0].zero_()
    assert_close(data.pixels, before, rtol=0, atol=0)


def test_sizes_are_told() -> None:
    data = labelled([0, 1, 1])
    assert (len(data), data.shape, data.classes) == (3, (3, 5, 11), 2)
    assert Images("some", some_bytes()).classes == 0


@pytest.mark.parametrize("count", [1, 255, 600])
@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_the_mean_is_that_of_the_batches(count: int, kind: str) -> None:
    data = Images("some", some_bytes(count) if kind == "bytes" else some_bytes(count) / 127.5 - 1)
    assert data.mean().dtype == torch.float32
    assert_close(data.mean(), data.batch(torch.arange(count))[0].double().mean(0).float())


def test_the_fingerprint_tells_contents_and_nothing_else() -> None:
    pixels, labels, names = some_bytes(4), torch.tensor([0, 1, 0, 1]), ("a", "b")
    known = Images("some", pixels, labels, names).fingerprint()
    assert len(known) == 64
    assert Images("other", pixels.clone(), labels.clone(), ("c", "d")).fingerprint() == known
    assert Images("some", pixels.transpose(2, 3).contiguous().transpose(2, 3), labels, names).fingerprint() == known
    changed = pixels.clone()
    changed[3, 2, 4, 10] += 1
    others = [
        Images("some", changed, labels, names),
        Images("some", pixels, labels.flip(0), names),
        Images("some", pixels),
        Images("some", pixels.transpose(2, 3).reshape(4, 3, 5, 11), labels, names),
        Images("some", pixels.reshape(4, 3, 11, 5), labels, names),
    ]
    assert known not in [other.fingerprint() for other in others]


def test_the_fingerprint_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Images("some", some_bytes())
    first = data.fingerprint()
    monkeypatch.setattr("hashlib.sha256", None)
    assert data.fingerprint() == first


@pytest.mark.parametrize(
    ("pixels", "problem"),
    [
        (torch.zeros(3, 5, 5), "shape"),
        (torch.zeros(0, 1, 5, 5), "at least one pixel"),
        (torch.zeros(2, 1, 5, 5, dtype=torch.float64), "torch.float64"),
        (torch.full((2, 1, 5, 5), 1.01), r"got values from 1\.01 to 1\.01"),
        (torch.full((2, 1, 5, 5), -2.0), r"\[-1, 1\]"),
        (torch.full((2, 1, 5, 5), torch.nan), r"\[-1, 1\]"),
    ],
)
def test_wrong_pixels_are_refused(pixels: Tensor, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        Images("some", pixels)


@pytest.mark.parametrize(
    ("labels", "names", "problem"),
    [
        (torch.tensor([0, 1, 0]), ("a", "b"), "one per image"),
        (torch.tensor([0.0, 1.0]), ("a", "b"), "float32"),
        (torch.tensor([0, 2]), ("a", "b"), r"lie in 0\.\.1"),
        (torch.tensor([-1, 0]), ("a", "b"), r"lie in 0\.\.1"),
        (None, ("a", "b"), "empty without labels"),
    ],
)
def test_wrong_labels_are_refused(labels: Tensor | None, names: tuple[str, ...], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        Images("some", some_bytes(2), labels, names)


def test_a_sample_is_spread_over_all() -> None:
    assert evenly_spaced(3, 5).tolist() == [0, 1, 2]
    assert evenly_spaced(10, 4).tolist() == [0, 2, 5, 7]
