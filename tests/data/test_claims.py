"""Files that say more than they hold, or hold more than they say, are told before room is made for it."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from immiscible.data import claims, load
from immiscible.errors import InputError


def header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    file = io.BytesIO()
    facts = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)
    return file.getvalue()


def zipped(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", content)
    return path


def told(path: Path) -> str:
    """What is said, and that little memory was taken to say it."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            load(str(path))
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    return str(caught.value)


SHAPES: list[tuple[tuple[int, ...], str]] = [
    ((10**6, 1, 1000, 1000), "the 1000000000000 bytes of 1000000 x 1 x 1000 x 1000 uint8 that its header tells of"),
    ((10**5, 1, 100, 1000), "10000000000 bytes of"),
    ((2**62, 2**62, 3, 2**62), "that its header tells of, got 100: is it whole?"),
    ((-1, 4, 4, 3), "-48 bytes of -1 x 4 x 4 x 3"),
    ((2, 4, 4), "the 32 bytes of 2 x 4 x 4 uint8 that its header tells of, got 100: save one array a file"),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("shape", "said"), SHAPES)
def test_a_header_of_numpy_that_is_not_true_is_told(
    tmp_path: Path, shape: tuple[int, ...], said: str, packed: bool
) -> None:
    content = header(shape) + bytes(100)
    path = tmp_path / ("a.npz" if packed else "a.npy")
    if packed:
        zipped(path, content)
    else:
        path.write_bytes(content)
    assert said in told(path)


@pytest.mark.parametrize("packed", [False, True])
def test_an_array_larger_than_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    """Also where it is true, as a packed one of zeros may be."""
    content = header((2000, 1, 50, 50)) + bytes(2000 * 2500)
    path = zipped(tmp_path / "a.npz", content) if packed else tmp_path / "a.npy"
    if not packed:
        path.write_bytes(content)
    assert len(load(str(path))) == 2000
    monkeypatch.setattr(claims, "_memory", lambda: 10**6)
    assert "must fit into memory" in told(path)


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{1: 2}], dtype=object), allow_pickle=True)
    assert "without pickled objects, which may run code" in told(tmp_path / "a.npy")


def idx(dims: tuple[int, ...], body: bytes) -> bytes:
    return bytes((0, 0, 8, len(dims))) + struct.pack(f">{len(dims)}I", *dims) + body


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (idx((2**32 - 1,) * 3, bytes(10)), "got 10: is it whole?"),
        (idx((10, 100, 100), bytes(100)), "10 x 100 x 100 bytes that its header tells of, got 100: is it whole?"),
        (idx((2, 3, 3), bytes(2**28)), "2 x 3 x 3 bytes that its header tells of, got 19 or more"),
    ],
)
def test_a_packed_idx_file_is_read_no_further_than_its_header_tells(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(content, 1))
    assert said in told(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


GOOD: dict[str, Any] = {
    "a.npy": header((2, 1, 4, 4)) + bytes(32),
    "a-images-idx3-ubyte": idx((2, 4, 4), bytes(32)),
    "a-images-idx3-ubyte.gz": gzip.compress(idx((2, 4, 4), bytes(32))),
}


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a-images-idx3-ubyte", "a-images-idx3-ubyte.gz"])
@given(changes=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4), length=st.integers(0, 500))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_read_or_told_in_one_line(
    place: Path, name: str, changes: list[tuple[int, int]], length: int
) -> None:
    path = place / name
    content = bytearray(GOOD[name] if name in GOOD else zipped(path, GOOD["a.npy"]).read_bytes())
    for at, value in changes:
        content[at % len(content)] = value
    path.write_bytes(content[: length or None])
    said = ""
    try:
        load(str(path))
    except InputError as error:
        said = str(error)
    assert "\n" not in said
