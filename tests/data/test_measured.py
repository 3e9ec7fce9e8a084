from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from immiscible.config.groups import ReadOptions
from immiscible.data.measured import Measured, read_measured
from immiscible.errors import InputError

OPTIONS = ReadOptions()
CHUNKS = np.arange(7 * 5 * 3, dtype=np.float32).reshape(7, 5, 3)


def read(path: Path, observations: Path | str = "", most: int = 100) -> Measured:
    return read_measured(str(path), OPTIONS, str(observations), most)


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
def test_arrays_of_any_shape_are_taken_as_they_are(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"chunks.{suffix}"
    match suffix:
        case "npy":
            np.save(path, CHUNKS)
        case "npz":
            np.savez(path, actions=CHUNKS)
        case _:
            save_file({"actions": torch.from_numpy(CHUNKS)}, path)
    data = read(path)
    assert (data.shape, data.dims, data.total, data.labels) == ((5, 3), 15, 7, None)
    torch.testing.assert_close(data.x, torch.from_numpy(CHUNKS))


def test_labels_and_observations_stay_with_their_data(tmp_path: Path) -> None:
    x = np.arange(40, dtype=np.float16)[:, None, None] * np.ones((1, 2, 2), np.float16)
    observations = np.arange(40)[:, None] * np.ones((1, 3))
    np.savez(tmp_path / "latents.npz", latents=x, labels=np.arange(40) % 4 - 1, obs=observations)
    data = read(tmp_path / "latents.npz", most=11)
    assert (len(data), data.total, data.x.dtype) == (11, 40, torch.float32)
    which = data.x[:, 0, 0]
    assert data.labels is not None
    assert data.observations is not None
    torch.testing.assert_close(data.labels, which.long() % 4)
    torch.testing.assert_close(data.observations, which[:, None].expand(-1, 3))
    np.save(tmp_path / "others.npy", 2 * observations)
    others = read(tmp_path / "latents.npz", tmp_path / "others.npy", most=11).observations
    torch.testing.assert_close(others, 2 * data.observations)


def test_bytes_are_images(tmp_path: Path) -> None:
    np.save(tmp_path / "bytes.npy", np.full((5, 6, 6, 3), 255, np.uint8))
    data = read(tmp_path / "bytes.npy")
    assert data.shape == (3, 6, 6)
    assert data.x.unique().tolist() == [1.0]


def test_what_image_readers_take_is_taken() -> None:
    data = read_measured("digits", OPTIONS, most=50)
    assert (len(data), data.total, data.shape) == (50, 1797, (1, 8, 8))
    assert data.labels is not None


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.full((4, 2), np.nan, np.float32)}, "must be finite"),
        ({"x": np.zeros(4, np.float32)}, "must have shape"),
        ({"x": np.zeros((4, 0), np.float32)}, "at least one number"),
        ({"x": np.zeros((4, 2), np.int64)}, "must hold floats"),
        ({"a": np.zeros((4, 2)), "b": np.zeros((4, 2))}, "must hold its data under one of"),
        ({"x": np.zeros((4, 2)), "labels": np.zeros(3, int)}, "labels must be integers or strings with shape (4,)"),
        ({"x": np.zeros((4, 2)), "obs": np.zeros((3, 2))}, "must have a row for each of the 4 data, got 3"),
        ({"x": np.zeros((4, 2)), "obs": np.full((4, 2), np.inf)}, "must have finite observations"),
        ({"x": np.array([["a", "b"]])}, "must hold numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arrays_get_their_line(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError) as error:
        read(tmp_path / "bad.npz")
    assert said in str(error.value)


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
def test_damaged_files_get_their_line(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"torn.{suffix}"
    path.write_bytes(b"\x93NUMPY\x01\x00 torn" if suffix == "npy" else b"PK\x03\x04 torn")
    with pytest.raises(InputError, match="whole file"):
        read(path)


def test_observations_must_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--observations must be"):
        read_measured("digits", OPTIONS, str(tmp_path / "none.npy"), 10)
