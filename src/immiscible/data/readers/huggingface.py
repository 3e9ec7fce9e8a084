"""Images from a Hugging Face dataset: ``hf:NAME``, ``hf:NAME@CONFIGURATION``, or ``hf:FOLDER``.

A folder is one that ``save_to_disk`` wrote, or one of parquet files or pictures, as the library reads them. A path that
exists is a folder, whatever characters are in it.

The images are the dataset's only column of images, the labels its only column of class labels, or else the integers of
a column called ``label`` or ``cls``; flags name others, which may hold strings. Captions are a column of strings called
``text``, ``caption`` or ``txt``, or the one that a flag names. Code of a dataset is never run: the library
refuses it, and nothing here asks for it. Images are decoded here, so those that cannot be read are counted like those
of a folder. A row is an example; of a list of captions the first is taken.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from immiscible.config.groups import ReadOptions
from immiscible.data.cache import state_of
from immiscible.data.captions import COLUMNS, check_captions, further_captions
from immiscible.data.decoding import Content, Corrupt, Encoded
from immiscible.data.gather import Beside, Numbered, gather
from immiscible.data.hub import unreachable
from immiscible.data.images import Images, number_classes
from immiscible.errors import InputError, one_line

PREFIX = "hf:"
TAKES = ("split", "image_column", "label_column", "caption_column")
# The second is what webdataset calls them.
LABELS = ("label", "cls")


def matches(spec: str) -> bool:
    """Whether data is a dataset, by how its name begins."""
    return spec.startswith(PREFIX)


def read(spec: str, options: ReadOptions) -> Images:
    """Reads a dataset, see this module's description and :func:`immiscible.data.load`.

    Raises:
        InputError: If the library is missing, the dataset cannot be had, or its columns do not say what is what.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"the data `{spec}` needs the library datasets: `pip install datasets`.") from error
    name = os.path.expanduser(spec.removeprefix(PREFIX))
    if not name.partition("@")[0]:
        raise InputError(f"`hf:` must be followed by the name or folder of a dataset, got `{spec}`.")
    table = from_disk(name, options.split) if is_saved(name) else by_name(name, options.split)
    images = image_column_of(table, spec, options.image_column)
    labels = label_column_of(table, spec, options.label_column)
    captions = caption_column_of(table, options.caption_column)
    undecoded = table.select_columns([images]).cast_column(images, datasets.Image(decode=False))
    # The library does not say that its tables may be read from several threads.
    lock = threading.Lock()

    def content(row: int) -> Content:
        with lock:
            return _content(undecoded[row][images])

    encoded = Encoded(spec, [f"row {row}" for row in range(len(table))], content)
    values = _labels(table, spec, labels) if labels else None

    def number(chosen: np.ndarray) -> Numbered:
        feature = table.features[labels]
        if not isinstance(feature, datasets.ClassLabel):
            return number_classes(chosen)
        if chosen.min() < 0:
            raise InputError(f"`{spec}`: labels must be known, got -1 in column {labels}: choose another --split.")
        return torch.from_numpy(chosen.astype(np.int64)), tuple(feature.names)

    title = Path(name if os.path.exists(name) else name.partition("@")[0]).resolve().name
    return gather(
        encoded,
        Beside(values, *_captions(table, spec, captions), number),
        title,
        options,
        [spec, *_state(table, [images, labels, captions])],
    )


def _state(table: Any, columns: list[str]) -> Iterator[str]:
    """What changes when a dataset does: its files, or else, where the library holds it in memory, what is in it."""
    import datasets

    yield from columns
    for file in table.cache_files:
        yield state_of(Path(file["filename"]), file["filename"])
    if not table.cache_files:
        used = table.select_columns([column for column in columns if column])
        digest = hashlib.sha256()
        for row in used.cast_column(columns[0], datasets.Image(decode=False)):
            digest.update(repr(row).encode(errors="backslashreplace"))
        yield digest.hexdigest()


def is_saved(name: str) -> bool:
    """Whether a folder is what ``save_to_disk`` wrote."""
    return any(os.path.isfile(os.path.join(name, file)) for file in ("state.json", "dataset_dict.json"))


def from_disk(folder: str, split: str) -> Any:
    """A part of a dataset that ``save_to_disk`` wrote."""
    import datasets

    try:
        loaded = datasets.load_from_disk(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"`{folder}` must be a dataset of `save_to_disk`, got: {one_line(error)}.") from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise InputError(f"--split must be one of {', '.join(map(str, loaded))} for `{folder}`, got {split}.")
        return loaded[split]
    if split != "train":
        raise InputError(f"--split must be left out for `{folder}`, which has no parts, got {split}.")
    return loaded


def by_name(name: str, split: str, streaming: bool = False) -> Any:
    """A part of a dataset of the hub, downloaded or to be streamed, or of a folder of files."""
    import datasets
    from datasets.exceptions import DatasetsError

    refused = (*unreachable(), DatasetsError, RuntimeError, TypeError, KeyError)
    there = os.path.exists(name)
    repository, _, configuration = (name, "", "") if there else name.partition("@")
    try:
        return datasets.load_dataset(repository, configuration or None, split=split, streaming=streaming)
    except refused as error:
        wanted = "a dataset of the hub, reachable from here,"
        if there:
            wanted = "a dataset of `save_to_disk`, or a folder of parquet files or pictures,"
        raise InputError(
            f"`hf:{name}` must be {wanted} with the split {split}{'' if there else ', or a folder'}, got: "
            f"{one_line(error)}."
        ) from error


def image_column_of(table: Any, spec: str, asked: str) -> str:
    """The column of the images."""
    import datasets

    found = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    if asked in found:
        return asked
    if asked or len(found) != 1:
        columns = ", ".join(table.column_names)
        got = f"--image-column {asked}" if asked else f"{len(found)} columns of images"
        raise InputError(f"`{spec}` must have one column of images, or --image-column name it, got {got} of {columns}.")
    return found[0]


def label_column_of(table: Any, spec: str, asked: str) -> str:
    """The column of the labels, or nothing."""
    import datasets

    if asked:
        if asked not in table.column_names:
            raise InputError(f"--label-column must be one of {', '.join(table.column_names)}, got {asked}.")
        return asked
    found = [name for name, feature in table.features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(found) > 1:
        raise InputError(f"`{spec}` has several columns of labels, {', '.join(found)}: name one with --label-column.")
    plain = [name for name in LABELS if getattr(table.features.get(name), "dtype", "").startswith(("int", "uint"))]
    return next(iter(found + plain), "")


def _labels(table: Any, spec: str, column: str) -> np.ndarray:
    values = np.asarray(table[column][:])
    if values.ndim != 1 or values.dtype.kind not in "biuU":
        raise InputError(
            f"`{spec}`: labels must be an integer or a string for each image, got others or gaps in column {column}: "
            "choose another --label-column or --split."
        )
    return values


def caption_column_of(table: Any, asked: str) -> str:
    """The column of the captions, or nothing."""
    if asked:
        if asked not in table.column_names:
            raise InputError(f"--caption-column must be one of {', '.join(table.column_names)}, got {asked}.")
        return asked
    return next((name for name in COLUMNS if getattr(table.features.get(name), "dtype", "") == "string"), "")


def _captions(table: Any, spec: str, column: str) -> tuple[list[str], dict[str, int]]:
    """The captions, and how many were passed over."""
    if not column:
        return [], {}
    values = list(table[column][:])
    texts = check_captions(spec, [f"row {row}" for row in range(len(values))], values)
    return texts, further_captions(values)


def _content(value: dict[str, Any] | None) -> Content:
    if value is None or (value["bytes"] is None and value["path"] is None):
        raise Corrupt("no image")
    return io.BytesIO(value["bytes"]) if value["bytes"] is not None else Path(value["path"])
