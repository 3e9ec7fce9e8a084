"""What lies in a folder of images: the images, the texts beside them, and a count of everything else by its reason.

*Parts.* Where all sub-folders with images are called as parts of data are (``train``, ``val``, ``test`` and the like,
as the ``imagefolder`` of the library datasets knows them), one of them is the data, and the rest is not looked at.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from immiscible.errors import InputError

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif"),
    *(".bmp", ".gif", ".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm"),
)
# Texts beside images, in the order in which they are looked for.
TEXTS = (".txt", ".caption")
METADATA = ("metadata.jsonl", "metadata.csv")
# Names that other tools, or slips, give to what is meant to be metadata.
NEAR_MISSES = (
    *("metadata.json", "metadata.parquet", "metadata.tsv", "metadata.jsonlines", "metadata.ndjson", "metadata.txt"),
    *("metadata.csv.gz", "metadata.jsonl.gz", "captions.json", "captions.jsonl", "captions.csv", "captions.txt"),
)
# What the library datasets calls the parts of data.
PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
# Folders in folders that one may mean.
DEEPEST = 64


@dataclass
class Found:
    """What a folder holds.

    Attributes:
        images: The images, in the order of their paths.
        texts: Text files that may be captions.
        metadata: Files with the captions of many images.
        skipped: How many other things there are, by what they are.
    """

    images: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    metadata: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def found_in(folder: Path, depth: int = 0) -> Found:
    """Everything in a folder and below.

    Links to folders are followed in the folder itself, but not further below, where they may lead in circles.
    """
    if depth > DEEPEST:
        raise InputError(f"`{folder}` must not have more than {DEEPEST} folders in one another: move its images up.")
    found = Found()
    for entry in _sorted(folder):
        name = entry.name.lower()
        if name.startswith("."):
            found.skipped["hidden files"] += 1
        elif entry.is_dir():
            if depth and entry.is_symlink():
                found.skipped["links to folders inside folders"] += 1
            else:
                _add(found, found_in(entry, depth + 1))
        elif name in METADATA:
            found.metadata.append(entry)
        elif name in NEAR_MISSES:
            found.skipped[f"{entry.name}, which is not read"] += 1
        elif entry.suffix.lower() in SUFFIXES:
            found.images.append(entry)
        elif entry.suffix.lower() in TEXTS:
            found.texts.append(entry)
        else:
            found.skipped[f"{entry.suffix.lower()} files" if entry.suffix else "files without an ending"] += 1
    return found


def part_of(folder: Path, split: str) -> Path | None:
    """The sub-folder that is the wanted part of the data, or nothing where the data has no parts.

    Raises:
        InputError: If the part is not there, or parts lie beside what is none.
    """
    if any((folder / name).is_file() for name in METADATA):
        return None
    inside = [entry for entry in _sorted(folder) if not entry.name.startswith(".")]
    folders = [entry for entry in inside if entry.is_dir() and _holds_images(entry)]
    parts = {entry: kind for entry in folders if (kind := _kind(entry.name))}
    if not parts:
        return None
    named = ", ".join(entry.name for entry in parts)
    others = [entry for entry in inside if entry not in parts and (entry in folders or _is_image(entry))]
    if others:
        # A class may be called train. Two are parts.
        if len(set(parts.values())) > 1 or any(_holds_metadata(entry) for entry in parts):
            raise InputError(
                f"`{folder}` must hold either parts of data or classes, got {named} beside {others[0].name}: give one "
                f"as --data, such as {next(iter(parts))}, or move the others away."
            )
        return None
    exact = [entry for entry in parts if entry.name == split]
    chosen = exact or [entry for entry, kind in parts.items() if kind == _kind(split)]
    if len(chosen) != 1:
        raise InputError(f"--split must be one of {named} for `{folder}`, got {split}.")
    return chosen[0]


def _kind(name: str) -> str:
    """Which part of data is called so, if one is."""
    return next((kind for kind, names in PARTS.items() if name.lower() in names), "")


def _holds_images(folder: Path) -> bool:
    return any(_is_image(Path(name)) for _, _, names in os.walk(folder) for name in names)


def _holds_metadata(folder: Path) -> bool:
    return any(name.lower() in METADATA for _, _, names in os.walk(folder) for name in names)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _sorted(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.iterdir(), key=lambda entry: entry.name)


def _add(found: Found, more: Found) -> None:
    found.images += more.images
    found.texts += more.texts
    found.metadata += more.metadata
    found.skipped.update(more.skipped)
