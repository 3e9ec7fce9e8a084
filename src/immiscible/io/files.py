"""Writes files whole or not at all: beside the target, flushed to the disk, then renamed over it.

A file in the making is called ``.<name>.<some characters>.part``, and a directory ``.<name>.part``. What a killed
process left of them is removed by the next one that holds the lock of their place, see
:mod:`~immiscible.io.locks`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from immiscible.errors import REMEDIES, InputError, WriteError

LOCK = ".lock"
# File systems hold names of 255 bytes; what is added to a name has fewer than these.
LONGEST_STEM = 220
# What file systems answer that cannot flush; what is written is there all the same unless the power fails.
UNFLUSHED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def writing(path: Path, remedy: str = "") -> Iterator[None]:
    """Reports in one line whatever the disk refuses within, also within other libraries; the outermost one reports.

    Arguments:
        path: What is written.
        remedy: What helps, where more is known than the system's error says.

    Raises:
        WriteError: If the system refuses a write. What says nothing of disks or names goes through as it is.
    """
    try:
        yield
    except Exception as error:
        number = _number_of(error)
        if number not in REMEDIES or isinstance(error, InputError):
            raise
        raise WriteError(path, number, remedy) from error


def _number_of(error: Exception) -> int:
    """The system's number of an error, which libraries in Rust write out; 0 where there is none."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file such that its final name never shows half of it, whenever the process is killed.

    Raises:
        WriteError: If the disk is full, or does not let it be written.
    """
    aside = path.with_name(f".{stem(path)}.{secrets.token_hex(4)}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Its permissions are what the umask leaves, as those of any other file.
            with aside.open("xb") as file:
                file.write(data)
                file.flush()
                flush(file.fileno())
            aside.replace(path)
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


def stem(path: Path) -> str:
    """A file's name, cut where other names that are made of it would be too long."""
    name = path.name
    while len(os.fsencode(name)) > LONGEST_STEM:
        name = name[:-1]
    return name


def flush(handle: int) -> None:
    """Makes what was written survive a power cut, where the file system can."""
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNFLUSHED:
            raise


def flush_directory(path: Path) -> None:
    """Makes the names in a directory survive a power cut, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        # Windows opens no directories.
        return
    try:
        flush(handle)
    finally:
        os.close(handle)


def is_unfinished(path: Path) -> bool:
    """Whether a file or directory is what a killed process left of one that it was writing."""
    return path.name.startswith(".") and path.suffix == ".part"


def is_empty(directory: Path) -> bool:
    """Whether a directory holds nothing but what a killed process, or one that waits to begin, left there."""
    return all(is_unfinished(path) or path.name == LOCK for path in directory.iterdir())


def write_text(path: Path, text: str) -> None:
    """Writes text in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON, whole or not at all. NaN is refused, since it is no JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_folder(out: Path, save: Callable[[Path], Any], card: str, *, replace: bool = False) -> None:
    """Writes a directory and its model card beside its place, and moves it there when it is whole.

    Arguments:
        out: The directory, new or empty.
        save: Writes into the directory that it is given.
        card: The model card.
        replace: Whether it may take the place of what stands there.

    Raises:
        WriteError: If the disk is full, or does not let it be written.
    """
    aside, old = out.with_name(f".{stem(out)}.part"), out.with_name(f".{stem(out)}.old.part")
    with writing(out):
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(parents=True, exist_ok=True)
            save(aside)
            (aside / "README.md").write_text(card, encoding="utf-8")
            if replace and out.exists():
                shutil.rmtree(old, ignore_errors=True)
                out.rename(old)
            elif out.exists():
                _remove_litter(out)
            os.replace(aside, out)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            if out.exists():
                shutil.rmtree(old, ignore_errors=True)


def _remove_litter(directory: Path) -> None:
    for path in directory.iterdir():
        if is_unfinished(path):
            remove(path)


def remove(path: Path) -> None:
    """Removes a file, or a directory with all that is in it: a killed process leaves it whole, or as unfinished."""
    if path.is_dir() and not path.is_symlink():
        if not is_unfinished(path):
            path = path.rename(path.with_name(f".{stem(path)}.{secrets.token_hex(4)}.part"))
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
