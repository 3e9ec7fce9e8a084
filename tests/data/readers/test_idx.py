from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from immiscible.data import load
from immiscible.data.readers.idx import DEBIAN
from immiscible.errors import InputError

PIXELS = np.arange(6 * 5 * 7, dtype=np.uint8).reshape(6, 5, 7)
LABELS = np.array([3, 1, 3, 9, 1, 3], dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder: Path, prefix: str = "train", packed: bool = True, labels: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in (("images-idx3-ubyte", PIXELS), ("labels-idx1-ubyte", LABELS))[: 1 + labels]:
        content = idx(array)
        path = folder / f"{prefix}-{name}{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize("packed", [True, False])
def test_folder_is_read_with_its_labels(tmp_path: Path, packed: bool) -> None:
    write(tmp_path / "own", packed=packed)
    data = load(str(tmp_path / "own"))
    torch.testing.assert_close(data.pixels, torch.from_numpy(PIXELS)[:, None])
    assert data.labels is not None
    assert [data.class_names[label] for label in data.labels] == ["3", "1", "3", "9", "1", "3"]
    assert data.name == "own"


def test_split_is_chosen(tmp_path: Path) -> None:
    write(tmp_path, "t10k", labels=False)
    assert load(str(tmp_path), split="test").labels is None
    with pytest.raises(InputError, match=r"must hold train-images-idx3-ubyte.*for --split train"):
        load(str(tmp_path))
    with pytest.raises(InputError, match="--split must be one of train, test for IDX files, got val"):
        load(str(tmp_path), split="val")


@pytest.mark.parametrize("packed", [True, False])
def test_single_file_finds_the_labels_beside_it(tmp_path: Path, packed: bool) -> None:
    write(tmp_path, packed=packed)
    data = load(str(tmp_path / f"train-images-idx3-ubyte{'.gz' if packed else ''}"))
    assert data.classes == 3
    with pytest.raises(InputError, match="--split is for data that comes in parts"):
        load(str(tmp_path / f"train-images-idx3-ubyte{'.gz' if packed else ''}"), split="test")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "got the header of an empty file"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x01\x05", "bytes on 3 axes, got the header 00 00 08 01"),
        (b"\x00\x00\x0d\x03" + idx(PIXELS)[4:], "got the header 00 00 0d 03"),
        (idx(PIXELS)[:-1], "6 x 5 x 7 bytes that its header tells of, got 209"),
        (idx(PIXELS) + b"x", "tells of, got 211"),
        (idx(PIXELS[:0]), "0 x 5 x 7 bytes"),
    ],
)
def test_damage_is_told_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load(str(tmp_path / "x-images-idx3-ubyte"))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [gzip.compress(idx(PIXELS))[:-9], b"no gzip"])
def test_damaged_gzip_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(InputError, match="must be a whole gzip file"):
        load(str(tmp_path / "x-images-idx3-ubyte.gz"))


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    write(tmp_path, packed=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[:4]))
    with pytest.raises(InputError, match="a label for each of the 6 images, got 4"):
        load(str(tmp_path))


def test_fashion_mnist_is_found_where_it_is_told_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMMISCIBLE_DATA", str(tmp_path))
    monkeypatch.setattr("immiscible.data.readers.idx.DEBIAN", tmp_path / "nothing")
    with pytest.raises(InputError, match="apt install dataset-fashion-mnist"):
        load("fashion-mnist")
    write(tmp_path / "fashion-mnist")
    for spec in ("fashion-mnist", str(tmp_path / "fashion-mnist")):
        data = load(spec)
        assert data.labels is not None
        # Classes that do not occur keep their numbers free.
        assert data.labels.tolist() == LABELS.tolist()
        assert (data.classes, data.class_names[9]) == (10, "Ankle boot")


def test_fashion_mnist_is_told_by_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMMISCIBLE_DATA", str(tmp_path))
    (tmp_path / "fashion-mnist").symlink_to(write(tmp_path / "raw"))
    data = load("fashion-mnist")
    assert (data.name, data.class_names[0]) == ("fashion-mnist", "T-shirt/top")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_is_the_real_one() -> None:
    data = load("fashion-mnist")
    assert data.pixels.shape == (60_000, 1, 28, 28)
    assert data.labels is not None
    assert data.labels.bincount().tolist() == [6000] * 10
    assert data.class_names[data.labels[0]] == "Ankle boot"
    torch.testing.assert_close((data.mean().mean().item() + 1) / 2, 0.2860, rtol=0, atol=1e-4)
    assert len(load("fashion-mnist", split="test")) == 10_000
