"""Options that a kind of data does not take are refused, since they would change nothing."""

from __future__ import annotations

from collections.abc import Collection

from immiscible.config.groups import ReadOptions
from immiscible.errors import InputError

COLUMNS = ("image_column", "label_column", "caption_column")


def check_taken(spec: str, options: ReadOptions, taken: Collection[str]) -> None:
    """Checks that no option was given that some data does not take.

    Arguments:
        spec: What the data is called.
        options: The options.
        taken: Which of them are taken.

    Raises:
        InputError: If another one was given.
    """
    if options.class_count and "class_count" not in taken:
        raise InputError(f"--class-count is for streams, got it with {spec}, whose classes are counted.")
    if any(getattr(options, name) and name not in taken for name in COLUMNS):
        raise InputError(
            "--image-column, --label-column and --caption-column are for Hugging Face datasets and streams, got them "
            f"with {spec}."
        )
    if options.split != "train" and "split" not in taken:
        raise InputError(f"--split is for data that comes in parts, got {options.split} with {spec}.")
