"""Images that are read as they are needed: ``stream:PATTERN`` of tar archives, or ``stream:hf:NAME`` of a dataset.

*Archives* are the shards of webdataset: files of one name before their first dot make an example, of which ``png`` or
``jpg`` is the image, ``cls`` the label, ``txt`` the caption; ``--caption-column json.title`` takes a field of a
``json``. *Datasets* are those of :mod:`immiscible.data.huggingface`. Both are read by the library datasets.

*The head.* What has to be known before the first image is drawn (shape, mean, captions to sample for, what scores
compare with) is taken from a sample: the first images of some shards, evenly spaced. A figure computed from it holds
for the stream as far as the sample is like it.

*Classes* cannot be told from a sample, as one may have no image in it. They are those that a dataset declares, or else
the integers below ``--class-count``. Without either a stream has no classes.

*Colour and size* are those of the head. Later images must have its size, unless an image size is given; grey ones are
put in colour where the head is in colour, and coloured ones are refused where it is grey.
"""

from __future__ import annotations

import glob
import hashlib
import io
import math
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from immiscible.data.captions import check_captions
from immiscible.data.decoding import Corrupt, Damages, Encoded, common_shape, decode_like, fill
from immiscible.data.hub import unreachable
from immiscible.data.huggingface import (
    PREFIX,
    by_name,
    caption_column_of,
    from_disk,
    image_column_of,
    label_column_of,
)
from immiscible.data.images import Images, evenly_spaced
from immiscible.errors import InputError, one_line

STREAM = "stream:"
# Enough images to estimate a mean and a FID by, and few enough to be read in a moment and kept by every process.
HEAD = 1024
# They come from the beginnings of at most so many shards, as long as these have enough, since each may take a download.
HEAD_SHARDS = 16
# Large images are fewer.
HEAD_BYTES = 2**28
# A tar archive consists of blocks, and ends with empty ones.
BLOCK = 512


@dataclass(frozen=True)
class Columns:
    """Where the parts of an example are: in columns, or in a field of one, ``json.title``; nothing for none."""

    image: str
    label: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Example:
    """An image of a stream as it was read, not decoded yet."""

    name: str
    image: dict[str, Any] | None
    label: Any = None
    caption: Any = None


@dataclass(frozen=True, eq=False)
class Stream:
    """Images in shards, each of which can be read from its beginning, or from where one stopped.

    Arguments:
        spec: What the user calls it.
        table: ``datasets.IterableDataset`` with the columns needed, its images left encoded.
        columns: Which these are.
        shards: What messages call each shard.
        identity: What tells it from other streams, as far as that is known without reading it.
        class_names: One name per class, empty without labels.
        image_size: Crops and resizes every image to a square with this side.
        skip_corrupt: Whether to leave out images that cannot be read.
    """

    spec: str
    table: Any
    columns: Columns
    shards: tuple[str, ...]
    identity: str
    class_names: tuple[str, ...] = ()
    image_size: int | None = None
    skip_corrupt: bool = False

    def shard(self, index: int, state: dict[str, Any] | None = None) -> Reading:
        """One shard, from its beginning or from a state of its reading."""
        return Reading(self, index, state)

    def decode(self, example: Example, shape: tuple[int, int, int]) -> Tensor:
        """An image as bytes with a shape.

        Raises:
            Corrupt: If it cannot be read.
            InputError: If it is unlike those before it.
        """
        return decode_like(shape, io.BytesIO(_content(example)), example.name, self.spec, self.image_size)

    def gather(self, pixels: list[Tensor], examples: list[Example]) -> Images:
        """Decoded images with what else is known of each."""
        labels = torch.tensor([self._label(one) for one in examples]) if self.class_names else None
        captions: list[str] = []
        if self.columns.caption:
            captions = check_captions(self.spec, [one.name for one in examples], [one.caption for one in examples])
        return Images(self.spec, torch.stack(pixels), labels, self.class_names, tuple(captions))

    def _label(self, example: Example) -> int:
        if not isinstance(example.label, int) or not 0 <= example.label < len(self.class_names):
            raise InputError(
                f"`{self.spec}`: labels must be integers from 0 to {len(self.class_names) - 1}, got {example.label!r} "
                f"in {example.name}: choose another --class-count, --label-column or --split."
            )
        return example.label


class Reading:
    """An iterator over the examples of one shard.

    Arguments:
        stream: The stream.
        index: Which shard.
        state: Where to go on, as :meth:`state` gave it; the beginning by default.

    Attributes:
        number: How many examples of the shard have been read.
    """

    def __init__(self, stream: Stream, index: int, state: dict[str, Any] | None = None) -> None:
        self.stream, self.name = stream, stream.shards[index]
        self.number: int = state["number"] if state else 0
        self._part = stream.table.shard(num_shards=len(stream.shards), index=index)
        if state is not None:
            self._part.load_state_dict(state["library"])

    def state(self) -> dict[str, Any]:
        """Where the example after the last one is, as JSON values."""
        return {"number": self.number, "library": self._part.state_dict()}

    def __iter__(self) -> Iterator[Example]:
        columns = self.stream.columns
        with _readable(self.name):
            for row in self._part:
                image = row[columns.image]
                name = row.get("__key__") or (image or {}).get("path") or f"image {self.number}"
                self.number += 1
                yield Example(f"{self.name}: {name}", image, _value(row, columns.label), _value(row, columns.caption))


@dataclass(frozen=True, eq=False)
class Head(Images):
    """Some images of a stream, which stand for all of it where facts about the data are needed.

    Arguments:
        stream: The stream.
    """

    stream: Stream = field(kw_only=True)

    def fingerprint(self) -> str:
        """That of the images and of all that is known of the stream besides."""
        return hashlib.sha256(f"{super().fingerprint()} {self.stream.identity}".encode()).hexdigest()


def read(
    spec: str,
    *,
    image_size: int | None = None,
    split: str = "train",
    image_column: str = "",
    label_column: str = "",
    caption_column: str = "",
    skip_corrupt: bool = False,
    class_count: int = 0,
) -> Head:
    """Opens a stream and reads its head, see this module's description and :func:`immiscible.data.load`.

    Raises:
        InputError: If the library is missing, there is no such stream, or its columns do not tell what is what.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"the data `{spec}` needs the library datasets: `pip install datasets`.") from error
    where = spec.removeprefix(STREAM)
    table, shards, identity = _dataset(where, split) if where.startswith(PREFIX) else _archives(where, split)
    if table.features is None:
        raise InputError(f"`{spec}` must tell its columns and their kinds, got none: convert it to parquet.")
    root = label_column if label_column in table.features else label_column.partition(".")[0]
    label = label_column_of(table, spec, root)
    names = _class_names(table.features[label], spec, label, class_count) if label else ()
    if class_count and not names:
        raise InputError(f"--class-count needs labels in a column called label or cls, got {spec} without.")
    caption = caption_column if caption_column in table.features else caption_column.partition(".")[0]
    found_caption = caption_column_of(table, caption)
    columns = Columns(
        image_column_of(table, spec, image_column),
        (label_column or label) if names else "",
        caption_column or found_caption,
    )
    needed = {columns.image, label if names else "", found_caption, "__key__"}
    table = table.select_columns([name for name in table.features if name in needed])
    table = table.cast_column(columns.image, datasets.Image(decode=False))
    return _head(Stream(spec, table, columns, shards, identity, names, image_size, skip_corrupt))


def _archives(pattern: str, split: str) -> tuple[Any, tuple[str, ...], str]:
    """The archives that a pattern matches, as a dataset, with their names and what tells them from others."""
    import datasets
    from datasets.exceptions import DatasetsError

    if split != "train":
        raise InputError(f"--split is for data that comes in parts, got {split} with {STREAM}{pattern}.")
    files = sorted(path for path in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(path))
    if not files:
        hint = f": try {STREAM}{os.path.join(pattern, '*.tar')}" if os.path.isdir(pattern) else ""
        raise InputError(f"`{STREAM}PATTERN` must match tar archives, got none for `{pattern}`{hint}.")
    for file in files:
        _check_end(file)
    # A name may hold what would be taken for a pattern.
    escaped = [glob.escape(os.path.abspath(file)) for file in files]
    try:
        table = datasets.load_dataset("webdataset", data_files={"train": escaped}, split="train", streaming=True)
    except (*_damage(), DatasetsError, RuntimeError) as error:
        raise InputError(
            f"`{files[0]}` must be a tar archive of images as webdataset has them, got: {one_line(error)}."
        ) from error
    identity = "\n".join(f"{Path(file).name} {os.path.getsize(file)}" for file in files)
    return table, tuple(Path(file).name for file in files), identity


def _check_end(file: str) -> None:
    """Checks that a plain archive has its end: reading one that was cut between two files shows no fault.

    Raises:
        InputError: If it has not.
    """
    if not file.endswith(".tar"):
        return
    size = os.path.getsize(file)
    with open(file, "rb") as archive:
        archive.seek(max(0, size - BLOCK))
        whole = size % BLOCK == 0 and archive.read() == bytes(BLOCK)
    if not whole:
        raise InputError(
            f"`{file}` must be a whole tar archive, got {size} bytes without its end: write or download it again."
        )


def _dataset(spec: str, split: str) -> tuple[Any, tuple[str, ...], str]:
    """A dataset as a stream, with the names of its shards and what tells it from others."""
    name = os.path.expanduser(spec.removeprefix(PREFIX))
    if not name.partition("@")[0]:
        raise InputError(f"`{STREAM}{PREFIX}` must be followed by the name or folder of a dataset, got nothing.")
    # What `save_to_disk` wrote; any other folder is one of a dataset's files.
    if any(os.path.isfile(os.path.join(name, file)) for file in ("state.json", "dataset_dict.json")):
        table = from_disk(name, split)
        table = table.to_iterable_dataset(num_shards=max(1, min(len(table), len(table.cache_files))))
    else:
        table = by_name(name, split, streaming=True)
    shards = tuple(f"shard {index} of {name}" for index in range(table.num_shards))
    return table, shards, f"{Path(name).name} {split} {len(shards)}"


def _class_names(feature: Any, spec: str, column: str, class_count: int) -> tuple[str, ...]:
    """The names of the classes, none where nobody knows how many there are."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        if class_count:
            raise InputError(f"--class-count must be left out for {spec}, whose column {column} declares its classes.")
        return tuple(feature.names)
    return tuple(str(number) for number in range(class_count))


def _head(stream: Stream) -> Head:
    """Reads some images: from the beginnings of shards evenly spaced, and from all others if these are short."""
    examples = _first_examples(stream)
    if not examples:
        raise InputError(f"`{stream.spec}` must hold images, got {len(stream.shards)} shards without any.")
    names = [example.name for example in examples]
    encoded = Encoded(stream.spec, names, lambda index: io.BytesIO(_content(examples[index])))
    damages = Damages(stream.skip_corrupt)
    shape, wanted = common_shape(encoded, stream.image_size, damages)
    room = evenly_spaced(len(wanted), max(1, HEAD_BYTES // math.prod(shape)))
    wanted = [wanted[index] for index in room.tolist()]
    pixels = torch.empty(len(wanted), *shape, dtype=torch.uint8)
    rows = list(fill(encoded, wanted, pixels, stream.image_size, damages))
    damages.settle(stream.spec, len(examples))
    found = stream.gather(list(pixels[: len(rows)]), [examples[row] for row in rows])
    name = f"the stream {Path(stream.spec.removeprefix(STREAM).removeprefix(PREFIX)).name}, known by a sample"
    return Head(name, found.pixels, found.labels, found.class_names, found.captions, stream=stream)


def _first_examples(stream: Stream) -> list[Example]:
    total = len(stream.shards)
    chosen = evenly_spaced(total, HEAD_SHARDS).tolist()
    others = sorted(set(range(total)) - set(chosen))
    share = -(-HEAD // len(chosen))
    examples: list[Example] = []
    for index in [*chosen, *others]:
        if len(examples) >= HEAD:
            break
        examples += islice(stream.shard(index), min(share, HEAD - len(examples)))
    return examples


def _content(example: Example) -> bytes:
    """The image as a file has it; what a dataset only points to is fetched."""
    import fsspec

    image = example.image or {}
    if image.get("bytes") is not None:
        return image["bytes"]
    if image.get("path") is None:
        raise Corrupt("no image")
    with _readable(image["path"]), fsspec.open(image["path"], "rb") as file:
        return file.read()  # pyright: ignore[reportAttributeAccessIssue]


def _value(row: dict[str, Any], column: str) -> Any:
    """What a column holds, or a field of a column."""
    if not column or column in row:
        return row.get(column)
    root, _, name = column.partition(".")
    return (row.get(root) or {}).get(name)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Tells what goes wrong while a shard is read."""
    try:
        yield
    except InputError:
        raise
    except _damage() as error:
        raise InputError(
            f"`{name}` must be whole, and reachable, got: {one_line(error)}: write or download it again."
        ) from error


def _damage() -> tuple[type[BaseException], ...]:
    return (*unreachable(), tarfile.TarError, EOFError, zlib.error, KeyError, TypeError)
