"""Captions of the images of a folder: a ``metadata.jsonl`` or ``metadata.csv`` in it, or a text beside each image.

A metadata file has a row for each image with its ``file_name``, relative to the folder, and its ``text`` (or
``caption``, or what a flag names), as the ``imagefolder`` of the library datasets has it. A text is called as its image
is, with ``.txt`` or ``.caption`` in place of the ending.

*Several captions.* One rule holds for all data: a row is an example. An image that has several rows is trained on once
for each, and of a row that holds a list of captions the first is taken.

*Names* are compared as a person reads them: ``./a.png``, ``sub\\a.png`` and letters that are composed in another way
(NFC, NFD) mean the same file. Files are UTF-8, with or without a byte order mark.
"""

from __future__ import annotations

import csv
import json
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from immiscible.data.listing import METADATA, TEXTS
from immiscible.errors import InputError, one_line

# What a column of captions may be called; the last is webdataset's word.
COLUMNS = ("text", "caption", "txt")
# How many images without caption a message names.
NAMED = 3


@dataclass(frozen=True)
class Captions:
    """The examples that images and their captions make.

    Attributes:
        rows: Which image each example has.
        texts: The caption of each, or none at all.
        skipped: How many things were passed over, by the reason.
    """

    rows: Sequence[int]
    texts: Sequence[str] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)


def metadata_in(folder: Path) -> list[Path]:
    """The metadata files of a folder, of which the first counts."""
    there = {entry.name.lower(): entry for entry in folder.iterdir() if entry.name.lower() in METADATA}
    return [there[name] for name in METADATA if name in there]


def of_metadata(folder: Path, names: Sequence[str], column: str = "") -> Captions:
    """The captions that a folder's metadata file gives.

    Arguments:
        folder: The folder.
        names: The paths of the images, relative to it.
        column: What the column of the captions is called, if not as usual.

    Raises:
        InputError: If the metadata cannot be read, or some images have no caption.
    """
    path, *others = metadata_in(folder)
    skipped = Counter({f"{other.name} beside {path.name}": 1 for other in others})
    found = _finder(names)
    captions: dict[int, list[Any]] = {index: [] for index in range(len(names))}
    for file_name, text in _metadata_rows(path, column):
        index = found(file_name)
        if index is None:
            skipped[f"rows of {path.name} without their image"] += 1
        else:
            captions[index].append(text)
    rows = [index for index, texts in captions.items() for _ in texts or [None]]
    texts = [text for texts in captions.values() for text in texts or [None]]
    return Captions(
        rows,
        check_captions(str(folder), [names[row] for row in rows], texts),
        skipped + Counter(further_captions(texts)),
    )


def beside(folder: Path, files: Sequence[Path], names: Sequence[str], texts: Sequence[Path]) -> Captions:
    """The captions that lie beside images, or none if there are none.

    Arguments:
        folder: The folder.
        files: The images.
        names: Their paths, relative to the folder.
        texts: All text files of the folder.

    Raises:
        InputError: If only some of the images have a caption, or one cannot be read.
    """
    there = {(_alike(path.with_suffix("").as_posix()), path.suffix.lower()): path for path in texts}
    stems = [_alike(file.with_suffix("").as_posix()) for file in files]
    paths = [next((there[stem, kind] for kind in TEXTS if (stem, kind) in there), None) for stem in stems]
    unused = len(texts) - len({path for path in paths if path is not None})
    skipped = {"text files that are no image's caption": unused} if unused else {}
    if not any(paths):
        return Captions(range(len(files)), (), skipped)
    told = [None if path is None else _read_text(path) for path in paths]
    return Captions(range(len(files)), check_captions(str(folder), names, told), skipped)


def check_captions(where: str, names: Sequence[str], captions: Sequence[Any]) -> list[str]:
    """The captions of named images as a list, each on one line; of a list of captions, the first.

    Raises:
        InputError: If one is missing or is no text.
    """
    first: list[Any] = [value[0] if isinstance(value, list) and value else value for value in captions]
    missing = [name for name, caption in zip(names, first, strict=True) if not isinstance(caption, str)]
    if missing:
        named = ", ".join(missing[:NAMED]) + (", ..." if len(missing) > NAMED else "")
        raise InputError(
            f"`{where}` must have a caption for each image, got none for {len(missing)} of {len(captions)}: {named}: "
            "add them, or remove these images."
        )
    for name, caption in zip(names, first, strict=True):
        if not encodable(caption):
            raise InputError(f"`{where}` must have captions in Unicode, got {caption!a} for {name}: write it again.")
    return [" ".join(caption.split()) for caption in first]


def further_captions(values: Sequence[Any]) -> dict[str, int]:
    """How many captions were passed over in lists of several, by the reason."""
    count = sum(len(value) - 1 for value in values if isinstance(value, list) and value)
    return {"further captions of an image": count} if count else {}


def read_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8, without a byte order mark.

    Only line feeds and carriage returns end a line, not all that Unicode calls a line separator.
    """
    return path.read_text(encoding="utf-8-sig").split("\n")


def encodable(text: str) -> bool:
    """Whether text can be written, which halves of pairs cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _finder(names: Sequence[str]) -> Callable[[str], int | None]:
    """Finds the image that a row names."""
    exact = {Path(name).as_posix(): index for index, name in enumerate(names)}
    alike = {_alike(name): index for name, index in reversed(exact.items())}

    def find(name: str) -> int | None:
        plain = posixpath.normpath(name)
        if plain in exact:
            return exact[plain]
        return alike.get(_alike(plain), alike.get(_alike(posixpath.normpath(name.replace("\\", "/")))))

    return find


def _alike(name: str) -> str:
    """The same text for all ways to compose a name's letters."""
    return unicodedata.normalize("NFC", name)


def _metadata_rows(path: Path, column: str) -> Iterator[tuple[str, Any]]:
    """The name and the caption that each row gives."""
    names = (column,) if column else COLUMNS
    wanted = f"`{names[0]}`"
    try:
        for number, row in _read_rows(path):
            caption = next((name for name in names if name in row), None)
            if caption is None:
                raise InputError(
                    f"`{path}` must have a `file_name` and a {wanted} for each image, got none in row {number} of "
                    f"{', '.join(map(str, row)) or 'nothing'}: --caption-column names the column of the captions."
                )
            if not isinstance(row["file_name"], str):
                raise TypeError(f"the file_name {row['file_name']!r} in row {number}")
            yield row["file_name"], row[caption]
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
        raise InputError(
            f"`{path}` must have a `file_name` and a {wanted} for each image, got: {type(error).__name__} "
            f"{one_line(error)}."
        ) from error


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a metadata file, numbered from 1."""
    if path.suffix.lower() == ".csv":
        # Line breaks within quotes are part of a caption.
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from enumerate(csv.DictReader(file), 1)
        return
    for number, line in enumerate(read_lines(path), 1):
        try:
            if line.strip():
                yield number, json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"the caption `{path}` must be readable text in UTF-8, got: {error}.") from error
