"""Files are written whole or not at all, with the permissions of others, and a full disk is told in one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from immiscible.errors import WriteError
from immiscible.io import files
from immiscible.io.files import remove, write_bytes, write_folder, writing


def refuse(number: int):
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
def test_refused_write_is_told_in_one_line(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr(files, "flush", refuse(number))
    with pytest.raises(WriteError) as caught:
        write_bytes(tmp_path / "x", b"new")
    assert str(caught.value).startswith(f"cannot write {tmp_path / 'x'}: {os.strerror(number)}: ")
    assert (caught.value.errno, caught.value.exit_status) == (number, 1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"old"}


def test_refused_write_of_a_library_in_rust_is_told_too(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="No space left on device: free some"), writing(tmp_path):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_faults_of_the_program_keep_their_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing(tmp_path):
        1 / 0  # noqa: B018
    with pytest.raises(OSError, match="Interrupted") as caught, writing(tmp_path):
        raise InterruptedError(errno.EINTR, "Interrupted")
    assert not isinstance(caught.value, WriteError)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_umask_is_honoured(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~mask


def test_disk_that_cannot_flush_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", refuse(errno.EINVAL))
    write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"


def test_longest_name_can_be_written(tmp_path: Path) -> None:
    name = "ä" * 127
    write_bytes(tmp_path / name, b"new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_folder_that_replaces_another_one_does_so_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_folder(out, lambda folder: write_bytes(folder / "x", b"old"), "card")

    def fail(folder: Path) -> None:
        write_bytes(folder / "x", b"new")
        refuse(errno.ENOSPC)()

    with pytest.raises(WriteError, match="No space"):
        write_folder(out, fail, "card", replace=True)
    assert (out / "x").read_bytes() == b"old"
    write_folder(out, lambda folder: write_bytes(folder / "x", b"new"), "card", replace=True)
    assert (out / "x").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [out]


def test_directory_is_removed_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    monkeypatch.setattr("shutil.rmtree", refuse(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        remove(tmp_path / "x")
    assert all(map(files.is_unfinished, tmp_path.iterdir()))
