"""Stores of zarr, written here by the rules of the format."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from immiscible.data.demonstrations import read_demonstrations
from immiscible.errors import InputError

OBSERVATIONS = np.arange(35, dtype=np.float32).reshape(7, 5) / 3
ACTIONS = np.arange(14, dtype=np.float64).reshape(7, 2)
ENDS = np.array([3, 7])
BLOSC = {"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 2, "blocksize": 0}


def write_array(path: Path, values: np.ndarray, size: tuple[int, ...], codec: Any = BLOSC, **changes: Any) -> None:
    """Writes an array; what is changed in its metadata is not what its chunks are written by, but for names."""
    from numcodecs import get_codec

    order, separator = "F" if changes.get("order") == "F" else "C", changes.get("dimension_separator", ".")
    path.mkdir(parents=True, exist_ok=True)
    known = {"zarr_format": 2, "shape": values.shape, "chunks": size, "dtype": values.dtype.str, "fill_value": 0}
    said = {**known, "order": "C", "filters": None, "compressor": codec, **changes}
    (path / ".zarray").write_text(json.dumps(said))
    counts = [range(-(-length // chunk)) for length, chunk in zip(values.shape, size, strict=True)]
    for place in itertools.product(*counts):
        chunk = np.zeros(size, values.dtype)
        part = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, size, strict=True))]
        chunk[tuple(slice(length) for length in part.shape)] = part
        content = chunk.tobytes(order)
        target = path / separator.join(map(str, place))
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(get_codec(codec).encode(content) if codec else content)


def write(folder: Path, codec: Any = BLOSC, **changes: Any) -> str:
    for group in ("", "data", "meta"):
        (folder / group).mkdir(parents=True, exist_ok=True)
        (folder / group / ".zgroup").write_text('{"zarr_format": 2}')
    write_array(folder / "data/state", OBSERVATIONS, (4, 3), codec, **changes)
    write_array(folder / "data/action", ACTIONS, (3, 2), codec)
    write_array(folder / "meta/episode_ends", ENDS, (5,), codec)
    return str(folder)


@pytest.mark.parametrize("codec", [None, BLOSC, *({"id": name} for name in "zstd lz4 zlib gzip bz2 lzma".split())])
def test_store_is_read_whatever_it_is_packed_with(tmp_path: Path, codec: Any) -> None:
    folder = write(tmp_path / "own.zarr", codec)
    write_array(tmp_path / "own.zarr/data/img", np.zeros((7, 2, 2, 3), np.uint8), (7, 2, 2, 3), codec)
    data = read_demonstrations(folder)
    torch.testing.assert_close(data.observations, torch.from_numpy(OBSERVATIONS), rtol=0, atol=0)
    torch.testing.assert_close(data.actions, torch.from_numpy(ACTIONS).float(), rtol=0, atol=0)
    assert (data.name, data.rate, data.ends.tolist()) == ("own.zarr", 10.0, [3, 7])
    assert data.passed_over == {"array data/img, which is not read": 1}


@pytest.mark.parametrize("changes", [{"order": "F"}, {"dimension_separator": "/"}])
def test_other_orders_and_names_of_chunks_are_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    data = read_demonstrations(write(tmp_path / "own.zarr", **changes))
    torch.testing.assert_close(data.observations, torch.from_numpy(OBSERVATIONS), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"zarr_format": 3}, "got version 3"),
        ({"shape": [7]}, r"the shape \[7\] in chunks of \[4, 3\]"),
        ({"shape": [7, -5]}, r"the shape \[7, -5\]"),
        ({"shape": "75"}, "the shape 75"),
        ({"chunks": [0, 3]}, r"in chunks of \[0, 3\]"),
        ({"dtype": "|O"}, r"the type \|O: numbers are read"),
        ({"dtype": [["a", "<f4"]]}, "numbers are read"),
        ({"order": "X"}, "the order X"),
        ({"filters": [{"id": "pickle"}]}, "filters, which are not read"),
        ({"compressor": {"id": "pickle"}}, "the compressor {'id': 'pickle'}: known are blosc"),
        ({"compressor": "blosc"}, "the compressor blosc"),
        ({"shape": [10**11, 5]}, "must fit into memory"),
        ({"chunks": [10**11, 3]}, "must fit into memory"),
        ({"shape": [9, 5]}, "must be there, a chunk of its array|an action for each of the 9"),
        ({"shape": [90, 5]}, "must be there, a chunk of its array, got no such file: is the copy whole"),
        ({"dtype": "<f8"}, "must hold the 96 bytes .* promise, got 48 by its own: is it whole"),
        ({"compressor": None}, r"must hold the 48 bytes that its array's metadata promise, got \d+: is it whole"),
        ({"compressor": {"id": "zstd"}}, "must hold the 48 bytes .* got -1 by its own"),
        ({"compressor": {"id": "gzip"}}, "must be packed with gzip, got: .*: is it whole"),
    ],
)
def test_metadata_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_demonstrations(write(tmp_path / "own.zarr", **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("codec", [None, BLOSC, *({"id": name} for name in "zstd lz4 zlib gzip bz2 lzma".split())])
@pytest.mark.parametrize("kept", [0, 5, 13, -7])
def test_truncated_chunk_is_refused(tmp_path: Path, codec: Any, kept: int) -> None:
    folder = write(tmp_path / "own.zarr", codec)
    chunk = tmp_path / "own.zarr/data/state/1.0"
    chunk.write_bytes(chunk.read_bytes()[:kept])
    with pytest.raises(InputError, match="is it whole") as caught:
        read_demonstrations(folder)
    assert str(chunk) in str(caught.value)


@pytest.mark.parametrize("name", "blosc zstd lz4 zlib gzip bz2 lzma".split())
def test_chunk_that_unpacks_to_more_is_not_unpacked(tmp_path: Path, name: str) -> None:
    from numcodecs import get_codec

    folder = write(tmp_path / "own.zarr", {"id": name})
    (tmp_path / "own.zarr/data/state/1.0").write_bytes(get_codec({"id": name}).encode(bytes(10**7)))
    with pytest.raises(InputError, match=r"must hold the 48 bytes .* got (10000000 by its own|49): is it whole"):
        read_demonstrations(folder)


def test_version_3_and_other_stores_are_refused(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text("{}")
    with pytest.raises(InputError, match="must be a zarr store of version 2, got version 3"):
        read_demonstrations(str(tmp_path))
    (tmp_path / "zarr.json").unlink()
    (tmp_path / ".zgroup").write_text('{"zarr_format": 2}')
    with pytest.raises(InputError, match=r"must hold the arrays data/state, .* got no data/state, data/action"):
        read_demonstrations(str(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, " " * 2**24 + "{}"])
def test_metadata_that_are_none_are_refused(tmp_path: Path, content: str) -> None:
    folder = write(tmp_path / "own.zarr")
    (tmp_path / "own.zarr/data/state/.zarray").write_text(content)
    with pytest.raises(InputError, match=r"must be readable JSON|must hold an object|must be a file of metadata"):
        read_demonstrations(folder)


def test_without_numcodecs_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "own.zarr")
    monkeypatch.setitem(sys.modules, "numcodecs", None)
    with pytest.raises(InputError, match=r"numcodecs, .*pip install 'immiscible-diffusion\[policy\]'"):
        read_demonstrations(folder)
    # What the standard library unpacks needs nothing.
    monkeypatch.undo()
    plain = write(tmp_path / "plain.zarr", None)
    monkeypatch.setitem(sys.modules, "numcodecs", None)
    assert len(read_demonstrations(plain)) == 7
