"""NumPy files: keys, layouts, values, labels, and everything that may be wrong with them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from immiscible.data import Images, load
from immiscible.errors import InputError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (7, 5, 11), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (7, 5, 11, 3), dtype=np.uint8)


def read(folder: Path, *arrays: Any, **named: Any) -> Images:
    """Saves one array as .npy, or several as .npz, and loads them."""
    if named or len(arrays) != 1:
        np.savez(folder / "some.npz", *arrays, **named)
        return load(str(folder / "some.npz"))
    np.save(folder / "some.npy", arrays[0])
    return load(str(folder / "some.npy"))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY, GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2)),
        (np.asfortranarray(COLOUR), COLOUR.transpose(0, 3, 1, 2)),
    ],
)
def test_every_layout_gives_channels_first(tmp_path: Path, array: np.ndarray, expected: np.ndarray) -> None:
    assert_close(read(tmp_path, array).pixels, torch.from_numpy(expected.copy()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((5, 1, 7, 3), "ambiguous.*wider than 3"),
        ((5, 3, 3, 3), "ambiguous.*wider than 3"),
        ((3, 8, 8), r"ambiguous.*x\[None\]"),
        ((1, 8, 8), r"ambiguous.*x\[None\]"),
        ((8, 8, 3), r"ambiguous.*x\[None\]"),
        ((6, 8, 8, 4), "drop the alpha channel"),
        ((6, 4, 8, 8), "drop the alpha channel"),
        ((6, 2, 8, 8), r"got \(6, 2, 8, 8\)\."),
        ((6, 64), "reshape"),
        ((), r"got \(\)"),
        ((0, 8, 8), "at least one image"),
        ((5, 0, 8, 3), "at least one image"),
    ],
)
def test_other_layouts_are_refused_with_a_hint(tmp_path: Path, shape: tuple[int, ...], hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        read(tmp_path, np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "longdouble"])
def test_floats_are_kept(tmp_path: Path, dtype: str) -> None:
    data = read(tmp_path, np.array([[[-1, 0.5]], [[0.25, 1]]] * 2, dtype))
    assert data.pixels.dtype == torch.float32
    assert data.pixels[:2].flatten().tolist() == [-1, 0.5, 0.25, 1]


def test_rounding_beyond_the_range_is_clamped(tmp_path: Path) -> None:
    assert read(tmp_path, np.full((2, 4, 4), 1 + 1e-7)).pixels.max() == 1


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (GREY / 1.0, r"got 0 to 255: save them as `x.astype\(numpy.uint8\)`"),
        (GREY - 100.0, "rescale"),
        (np.full((2, 4, 4), 1e300), "rescale"),
        (np.full((2, 4, 4), np.nan), "NaN"),
        (np.full((2, 4, 4), -np.inf), "infinite"),
        (GREY.astype(np.int64), r"int64.*astype\(numpy.uint8\)`"),
        (GREY > 99, r"bool.*astype\(numpy.uint8\) \* 255`"),
        (GREY * 1j, "complex"),
        (np.full((2, 4, 4), "a"), "U1"),
    ],
)
def test_other_values_are_refused_with_a_hint(tmp_path: Path, array: np.ndarray, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        read(tmp_path, array)


@pytest.mark.parametrize("key", ["images", "x", "arr_0", "whatever"])
@pytest.mark.parametrize("label_key", ["labels", "y", "arr_1", None])
def test_images_and_labels_are_found_by_key(tmp_path: Path, key: str, label_key: str | None) -> None:
    labels = {label_key: np.arange(7) % 2} if label_key else {}
    others = {} if key == "whatever" else {"mean": GREY.mean(0)}
    data = read(tmp_path, **others, **labels, **{key: GREY})
    assert_close(data.pixels[:, 0], torch.from_numpy(GREY), rtol=0, atol=0)
    assert data.classes == (2 if label_key else 0)


def test_positional_arrays_are_images_and_labels(tmp_path: Path) -> None:
    assert read(tmp_path, GREY, np.arange(7)).classes == 7


def test_unknown_keys_are_listed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images, x, arr_0, got test, train: save"):
        read(tmp_path, train=GREY, test=GREY)
    with pytest.raises(InputError, match="no array at all"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("labels", "expected", "names"),
    [
        (np.array([5, -3, 5, 900, -3, 5, 5]), [1, 0, 1, 2, 0, 1, 1], ("-3", "5", "900")),
        (np.array([[5], [7], [5], [7], [5], [5], [5]], np.uint8), [0, 1, 0, 1, 0, 0, 0], ("5", "7")),
        (np.array(["cat", "ant", "cat", "bee", "ant", "cat", "cat"]), [2, 0, 2, 1, 0, 2, 2], ("ant", "bee", "cat")),
        (np.array([True, False, True, True, True, True, True]), [1, 0, 1, 1, 1, 1, 1], ("False", "True")),
        (np.zeros(7, np.int8), [0] * 7, ("0",)),
    ],
)
def test_classes_are_numbered_and_keep_their_names(
    tmp_path: Path, labels: np.ndarray, expected: list[int], names: tuple[str, ...]
) -> None:
    data = read(tmp_path, x=GREY, y=labels)
    assert data.labels is not None
    assert data.labels.tolist() == expected
    assert data.class_names == names


@pytest.mark.parametrize(
    ("labels", "hint"),
    [
        (np.arange(6), r"shape \(7,\), one per image, got \(6,\)"),
        (np.eye(7, dtype=int), r"got \(7, 7\)"),
        (np.arange(7.0), r"float64: save `labels.astype\(numpy.int64\)`"),
    ],
)
def test_wrong_labels_are_refused(tmp_path: Path, labels: np.ndarray, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        read(tmp_path, x=GREY, y=labels)


def damaged_files(folder: Path) -> dict[str, Path]:
    paths = {
        name: folder / name for name in ("empty.npy", "cut.npy", "text.npy", "huge.npy", "object.npy", "token.npy")
    }
    paths |= {name: folder / name for name in ("cut.npz", "flipped.npz", "garbled.npz", "object.npz", "foreign.npz")}
    np.save(folder / "whole.npy", GREY)
    np.savez_compressed(folder / "whole.npz", x=GREY)
    array, archive = (folder / "whole.npy").read_bytes(), (folder / "whole.npz").read_bytes()
    paths["empty.npy"].touch()
    paths["cut.npy"].write_bytes(array[:-100])
    paths["text.npy"].write_text("no array")
    paths["huge.npy"].write_bytes(array.replace(b"(7, 5, 11), }      ", b"(7" + b"0" * 15 + b", 5), }"))
    paths["token.npy"].write_bytes(array.replace(b"}", b"("))
    np.save(paths["object.npy"], np.array([None] * 7), allow_pickle=True)
    paths["cut.npz"].write_bytes(archive[:-30])
    middle = len(archive) // 2
    paths["flipped.npz"].write_bytes(archive[:middle] + bytes([archive[middle] ^ 1]) + archive[middle + 1 :])
    start = 30 + archive[26] + archive[28]
    paths["garbled.npz"].write_bytes(archive[:start] + b"\xff" * 20 + archive[start + 20 :])
    np.savez(paths["object.npz"], x=np.array([None] * 7))
    with zipfile.ZipFile(paths["foreign.npz"], "w") as foreign:
        foreign.writestr("x.npy", "no array")
    return paths


@pytest.mark.parametrize(
    "name",
    [
        *("empty.npy", "cut.npy", "text.npy", "huge.npy", "object.npy", "token.npy"),
        *("cut.npz", "flipped.npz", "garbled.npz", "object.npz", "foreign.npz"),
    ],
)
def test_damaged_files_and_pickles_are_one_line(tmp_path: Path, name: str) -> None:
    path = damaged_files(tmp_path)[name]
    with pytest.raises(InputError, match=f"`{name}`(: images)? must") as caught:
        load(str(path))
    assert "\n" not in str(caught.value)
