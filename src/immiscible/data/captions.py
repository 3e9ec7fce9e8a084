"""Captions of the images of a folder: a ``metadata.jsonl`` or ``metadata.csv`` in it, or a ``.txt`` beside each image.

A metadata file has a line for each image with its ``file_name``, relative to the folder, and its ``text``, as the
``imagefolder`` of the library datasets has it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from immiscible.errors import InputError

METADATA = ("metadata.jsonl", "metadata.csv")
# How many images without caption a message names.
NAMED = 3


def has_metadata(folder: Path) -> bool:
    """Whether there is a metadata file."""
    return any((folder / name).is_file() for name in METADATA)


def find_captions(folder: Path, files: Sequence[Path], names: Sequence[str]) -> list[str]:
    """The caption of each image, or nothing where there are no captions.

    Arguments:
        folder: The folder.
        files: The images.
        names: Their paths, relative to the folder.

    Raises:
        InputError: If the metadata cannot be read, or only some of the images have a caption.
    """
    if has_metadata(folder):
        told = _read_metadata(folder)
        return check_captions(str(folder), {name: told.get(Path(name).as_posix()) for name in names})
    beside = [file.with_suffix(".txt") for file in files]
    if not any(path.is_file() for path in beside):
        return []
    texts = {name: _read_text(path) if path.is_file() else None for name, path in zip(names, beside, strict=True)}
    return check_captions(str(folder), texts)


def check_captions(where: str, captions: Mapping[str, Any]) -> list[str]:
    """The captions of named images as a list.

    Raises:
        InputError: If one is missing or is no text.
    """
    missing = [name for name, caption in captions.items() if not isinstance(caption, str)]
    if missing:
        named = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        raise InputError(
            f"`{where}` must have a caption for each image, got none for {len(missing)} of {len(captions)}: {named}: "
            "add them, or remove these images."
        )
    return [" ".join(caption.split()) for caption in captions.values()]


def _read_metadata(folder: Path) -> dict[str, Any]:
    path = next(folder / name for name in METADATA if (folder / name).is_file())
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".csv":
            rows: list[Any] = list(csv.DictReader(text.splitlines()))
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        return {row["file_name"]: row["text"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(
            f"`{path}` must have a `file_name` and a `text` for each image, got: {type(error).__name__} {error}."
        ) from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"the caption `{path}` must be readable text in UTF-8, got: {error}.") from error
