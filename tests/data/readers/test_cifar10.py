"""Archives made the way the originals were, down to the instructions that Python 2 wrote."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from immiscible.data import load
from immiscible.errors import InputError

COUNT = 7


def values(part: int) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(part)
    # The serialised form of bytes outside ASCII and of quotes is where readers go wrong.
    return rng.integers(0, 256, (COUNT, 3072), dtype=np.uint8), rng.integers(0, 10, COUNT).tolist()


def short(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text + b"q\x01"


def appended(members: list[bytes], batch: int = 3) -> bytes:
    """How members are put into a list: in batches, which were of 1,000, and a single last one by itself."""
    batches = [members[i : i + batch] for i in range(0, len(members), batch)]
    return b"".join(b"(" + b"".join(some) + b"e" if len(some) > 1 else some[0] + b"a" for some in batches)


def python2(pixels: np.ndarray, labels: list[int]) -> bytes:
    """The dictionary of a batch under protocol 2 with byte strings, as cPickle of Python 2.7 lays it out."""
    data = pixels.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07"
    state = b"(K\x01" + b"".join(b"M" + struct.pack("<H", n) for n in pixels.shape) + b"\x86"
    state += (
        b"cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\t(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    )
    state += b"T" + struct.pack("<i", len(data)) + data + b"tb"
    numbers = b"]q\x03" + appended([b"K" + bytes([label]) for label in labels])
    names = b"]q\x04(" + b"".join(short(f"image_{i}.png".encode()) for i in range(len(labels))) + b"e"
    members = short(b"data") + array + state + short(b"labels") + numbers
    members += short(b"batch_label") + short(b"testing batch 1 of 1") + short(b"filenames") + names
    return b"\x80\x02}q\x00(" + members + b"u."


def binary(pixels: np.ndarray, labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True))


def contents(version: str) -> dict[str, bytes]:
    make, suffix = (python2, "") if version == "py" else (binary, ".bin")
    parts = {f"data_batch_{number}{suffix}": make(*values(number)) for number in range(1, 6)}
    return {**parts, f"test_batch{suffix}": make(*values(6))}


def make_folder(folder: Path, version: str) -> Path:
    path = folder / f"cifar-10-batches-{version}"
    path.mkdir(parents=True)
    for name, content in contents(version).items():
        (path / name).write_bytes(content)
    return path


def make_archive(folder: Path, version: str) -> Path:
    path = folder / f"cifar-10-{'python' if version == 'py' else 'binary'}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents(version).items():
            member = tarfile.TarInfo(f"cifar-10-batches-{version}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("make", [make_folder, make_archive])
@pytest.mark.parametrize("version", ["py", "bin"])
def test_both_versions_packed_and_unpacked_are_read(tmp_path: Path, make: object, version: str) -> None:
    path = make(tmp_path, version)  # pyright: ignore
    data = load(str(path))
    pixels, labels = zip(*(values(number) for number in range(1, 6)), strict=True)
    torch.testing.assert_close(data.pixels, torch.from_numpy(np.concatenate(pixels).reshape(-1, 3, 32, 32)))
    assert data.labels is not None
    assert data.labels.tolist() == [label for part in labels for label in part]
    assert data.class_names[:2] == ("airplane", "automobile")
    torch.testing.assert_close(
        load(str(path), split="test").pixels, torch.from_numpy(values(6)[0].reshape(-1, 3, 32, 32))
    )


def test_it_is_found_where_it_is_told_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMMISCIBLE_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(InputError, match=r"put cifar-10-python.tar.gz or cifar-10-binary.tar.gz there") as caught:
        load("cifar10")
    assert "\n" not in str(caught.value)
    make_archive(tmp_path, "bin")
    assert len(load("cifar10")) == 5 * COUNT


def test_what_a_file_asks_to_be_run_is_not_run(tmp_path: Path) -> None:
    """A REDUCE of os.system, which any loader of the format would have executed."""
    path = make_folder(tmp_path, "py")
    mark = tmp_path / "ran"
    attack = b"cposix\nsystem\n(U" + bytes([len(f"touch {mark}")]) + f"touch {mark}".encode() + b"tR0"
    whole = (path / "data_batch_2").read_bytes()
    (path / "data_batch_2").write_bytes(whole[:2] + attack + whole[2:])
    data = load(str(path))
    assert len(data) == 5 * COUNT
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "must be a whole file of its Python version"),
        (b"no such format", "must be a whole file of its Python version"),
        (b"\x80\x02}q\x00.", "must hold 3072 bytes for each label, got 0 bytes and 0 labels"),
        (python2(values(2)[0], values(2)[1][:-1]), "3072 bytes for each label, got 21504 bytes and 6 labels"),
        (python2(values(2)[0], [1, 2, 3, 10, 4, 4, 4]), "labels from 0 to 9, got 1 to 10"),
        (python2(*values(2))[:5000], "must be a whole file of its Python version"),
    ],
)
def test_damaged_parts_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = make_folder(tmp_path, "py")
    (path / "data_batch_2").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load(str(path))
    assert "`data_batch_2`" in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_archives_are_told(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "bin")
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(InputError, match=r"must hold all of cifar10, got no data_batch_3\.bin"):
        load(str(folder))
    (folder / "data_batch_3.bin").write_bytes(b"x" * 3072)
    with pytest.raises(InputError, match="records of 3073 bytes, got 3072 bytes"):
        load(str(folder))
    archive = make_archive(tmp_path, "py")
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(InputError, match="must be the whole archive of cifar10"):
        load(str(archive))
    with pytest.raises(InputError, match="--split must be train or test for cifar10"):
        load(str(folder), split="validation")
