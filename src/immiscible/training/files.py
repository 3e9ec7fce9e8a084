"""Writes files whole or not at all: beside the target, flushed to the disk, then renamed over it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from immiscible.errors import InputError


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file such that its final name never shows half of it, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    finally:
        Path(aside).unlink(missing_ok=True)


def is_unfinished(path: Path) -> bool:
    """Whether a file is what a killed process left of one that it was writing."""
    return path.name.startswith(".") and path.suffix == ".part"


def write_text(path: Path, text: str) -> None:
    """Writes text in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON, whole or not at all. NaN is refused, since it is no JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def check_new(out: Path) -> None:
    """Checks that a directory is new or empty.

    Raises:
        InputError: If it is not.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"DIR must be a new directory, got {out} with other contents.")


def write_folder(out: Path, save: Callable[[Path], Any], card: str) -> None:
    """Writes a directory and its model card beside its place, and moves it there when it is whole."""
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(parents=True, exist_ok=True)
    save(aside)
    (aside / "README.md").write_text(card, encoding="utf-8")
    os.replace(aside, out)
