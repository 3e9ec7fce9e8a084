"""Images from a folder of picture files, see :mod:`immiscible.data.decoding` for what is read how.

*Labels*: either all images lie in the folder itself, and have no labels, or all lie in sub-folders, and the first level
of sub-folders gives the classes; where the folder has captions in a metadata file, sub-folders are no classes. Nor are
they where their names are those of parts of data (:mod:`immiscible.data.listing`), of which one is read, or begin with
how often a trainer is to repeat what is in them (``10_ball``), as long as the images have captions.

*Captions* come as :mod:`immiscible.data.captions` says. Files are taken in the order of their paths. What is no image
is counted by its kind.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from immiscible.config.groups import ReadOptions
from immiscible.data import captions
from immiscible.data.cache import state_of
from immiscible.data.decoding import Encoded
from immiscible.data.gather import Beside, gather
from immiscible.data.images import Images
from immiscible.data.listing import Found, found_in, part_of
from immiscible.data.options import check_taken
from immiscible.errors import InputError

REPEATS = re.compile(r"(\d+)_.+")


TAKES = ("split", "caption_column")


def matches(spec: str) -> bool:
    """Whether data is a folder. Those of other kinds come before."""
    return os.path.isdir(os.path.expanduser(spec))


def read(spec: str, options: ReadOptions) -> Images:
    """Reads a folder, see this module's description.

    Raises:
        InputError: If there are no images, or some cannot be read or are unlike the others; it names the files.
    """
    folder = Path(os.path.expanduser(spec))
    part = part_of(folder, options.split)
    if part is None:
        check_taken(spec, options, ("caption_column",))
    inside = part or folder
    found = found_in(inside)
    _check_images(inside, found)
    names = [os.path.relpath(file, inside) for file in found.images]
    told = _captions(inside, found, names, options.caption_column)
    classes = _classes(inside, found.images, bool(told.texts))
    encoded = Encoded(str(inside), [names[row] for row in told.rows], lambda index: found.images[told.rows[index]])
    states = [state_of(file, name) for file, name in zip(found.images, names, strict=True)]
    return gather(
        encoded,
        Beside(
            [classes[row] for row in told.rows] if classes else None,
            told.texts,
            Counter(found.skipped) + Counter(told.skipped),
        ),
        folder.resolve().name,
        options,
        [*(states[row] for row in told.rows), *told.texts],
    )


def _check_images(folder: Path, found: Found) -> None:
    """Checks that there are images, and no captions that nobody would read."""
    if not found.images:
        others = ", ".join(f"{count} {kind}" for kind, count in found.skipped.most_common(3))
        raise InputError(
            f"`{folder}` must hold PNG or JPEG images, or others that are read here, or sub-folders of them, one per "
            f"class: found none{f', but {others}: convert them to PNG' if others else ''}."
        )
    deeper = next((path for path in found.metadata if path.parent != folder), None)
    if deeper and not captions.metadata_in(folder):
        raise InputError(
            f"`{folder}` must have its {deeper.name} in itself, got one in {deeper.parent.relative_to(folder)}: give "
            f"{deeper.parent} as --data, or move the file up and its names with it."
        )


def _captions(folder: Path, found: Found, names: Sequence[str], column: str) -> captions.Captions:
    if captions.metadata_in(folder):
        return captions.of_metadata(folder, names, column)
    if column:
        raise InputError(
            f"--caption-column needs a metadata.jsonl or metadata.csv in `{folder}`, got {column} without."
        )
    return captions.beside(folder, found.images, names, found.texts)


def _classes(folder: Path, images: Sequence[Path], captioned: bool) -> list[str]:
    """The class of each image, or no classes at all."""
    if captions.metadata_in(folder):
        return []
    below = [image.relative_to(folder) for image in images]
    flat, nested = [path for path in below if len(path.parts) == 1], [path for path in below if len(path.parts) > 1]
    if flat and nested:
        raise InputError(
            f"`{folder}` must have its images either in itself or all in sub-folders, one per class, "
            f"got both, such as {flat[0].name} and {nested[0]}: move them."
        )
    classes = [path.parts[0] for path in nested]
    if unreadable := [name for name in sorted(set(classes)) if name != name.encode(errors="replace").decode()]:
        raise InputError(f"`{folder}` must have classes with names in UTF-8, got {unreadable[0]!a}: rename it.")
    if not _are_repeats(set(classes)):
        return classes
    if captioned:
        return []
    first = min(classes)
    raise InputError(
        f"`{folder}` must have classes as its sub-folders, got {first}, which tells other trainers to repeat it "
        f"{first.partition('_')[0]} times: rename it to {first.partition('_')[2]}, or put a .txt beside each image."
    )


def _are_repeats(names: set[str]) -> bool:
    """Whether all names begin with how often to repeat, and not with the number of the class."""
    matches = [REPEATS.fullmatch(name) for name in names]
    numbers = sorted(int(match[1]) for match in matches if match)
    if not names or len(numbers) < len(names):
        return False
    return len(numbers) == 1 or numbers not in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))
