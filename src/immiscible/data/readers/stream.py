"""Images that are read as they are needed: ``stream:PATTERN`` of tar archives, or ``stream:hf:NAME`` of a dataset.

*Archives* are the shards of webdataset, see :mod:`immiscible.data.archives`: files of one name before their first dot
make an example, of which ``png``, ``jpg`` and the like is the image, ``cls`` the label, ``txt`` the caption;
``--caption-column json.title`` takes a field of a ``json``. *Datasets* are those of
:mod:`immiscible.data.readers.huggingface`, read by the library datasets.

*The head.* What has to be known before the first image is drawn (shape, mean, captions to sample for, what scores
compare with) is taken from a sample: the first images of some shards, evenly spaced. A figure computed from it holds
for the stream as far as the sample is like it.

*Classes* cannot be inferred from a sample, as one may have no image in it. They are those that a dataset declares, or
else the integers below ``--class-count``. Without either a stream has no classes.

*Colour and size* are those of the head. Later images must have its size, unless an image size is given; grey ones are
put in colour where the head is in colour, and coloured ones are refused where it is grey.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from immiscible.config.groups import ReadOptions
from immiscible.data.archives import check_end, look_at
from immiscible.data.decoding import UNREADABLE, Damages, Encoded, common_shape, fill
from immiscible.data.examples import Columns, Example, root_of
from immiscible.data.images import evenly_spaced
from immiscible.data.options import check_taken
from immiscible.data.patterns import matching
from immiscible.data.readers.huggingface import (
    PREFIX,
    by_name,
    caption_column_of,
    from_disk,
    image_column_of,
    is_saved,
    label_column_of,
)
from immiscible.data.shards import Dataset, Head, Stream, content_of
from immiscible.errors import InputError

STREAM = "stream:"
TAKES = ("split", "image_column", "label_column", "caption_column", "class_count")
# Enough images to estimate a mean and a FID by, and few enough to be read in a moment and kept by every process.
HEAD = 1024
# They come from the beginnings of at most this many shards, if these have enough, since each may take a download.
HEAD_SHARDS = 16
# Large images are fewer.
HEAD_BYTES = 2**28


def matches(spec: str) -> bool:
    """Whether data is a stream, by how its name begins."""
    return spec.startswith(STREAM)


def read(spec: str, options: ReadOptions) -> Head:
    """Opens a stream and reads its head, see this module's description and :func:`immiscible.data.load`.

    Raises:
        InputError: If the library is missing, there is no such stream, or its columns do not say what is what.
    """
    where = spec.removeprefix(STREAM)
    opened = (_of_dataset if where.startswith(PREFIX) else _of_archives)(spec, where, options)
    return _head(dataclasses.replace(opened, image_size=options.image_size, skip_corrupt=options.skip_corrupt))


def _of_archives(spec: str, pattern: str, options: ReadOptions) -> Stream:
    """The archives that a pattern matches."""
    check_taken(spec, options, set(TAKES) - {"split"})
    class_count = options.class_count
    files = tuple(matching(pattern))
    if not files:
        hint = f": try {STREAM}{os.path.join(pattern, '*.tar')}" if os.path.isdir(pattern) else ""
        raise InputError(f"`{STREAM}PATTERN` must match tar archives, got none for `{pattern}`{hint}.")
    for file in files:
        check_end(file)
    table, columns = look_at(files, spec, _asked(options))
    if class_count and not columns.label:
        raise _no_labels(spec)
    if not class_count:
        columns = dataclasses.replace(columns, label="")
    identity = "\n".join(f"{Path(file).name} {os.path.getsize(file)}" for file in files)
    shards = tuple(Path(file).name for file in files)
    return Stream(spec, table, columns, shards, identity, tuple(map(str, range(class_count))))


def _asked(options: ReadOptions) -> Columns:
    """The columns that flags name."""
    return Columns(options.image_column, options.label_column, options.caption_column)


def _of_dataset(spec: str, where: str, options: ReadOptions) -> Stream:
    """A dataset."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"the data `{spec}` needs the library datasets: `pip install datasets`.") from error
    asked, class_count = _asked(options), options.class_count
    table, shards, identity = _dataset(where, options.split)
    if table.features is None:
        raise InputError(f"`{spec}` must tell its columns and their kinds, got none: convert it to parquet.")
    label = label_column_of(table, spec, root_of(asked.label, table.features))
    names = _class_names(table.features[label], spec, label, class_count) if label else ()
    if class_count and not names:
        raise _no_labels(spec)
    caption = caption_column_of(table, root_of(asked.caption, table.features))
    columns = Columns(
        image_column_of(table, spec, asked.image), (asked.label or label) if names else "", asked.caption or caption
    )
    needed = {columns.image, label if names else "", caption, "__key__"}
    table = table.select_columns([name for name in table.features if name in needed])
    table = table.cast_column(columns.image, datasets.Image(decode=False))
    return Stream(spec, Dataset(table, shards), columns, shards, identity, names)


def _no_labels(spec: str) -> InputError:
    return InputError(f"--class-count needs labels in a column called label or cls, got {spec} without.")


def _dataset(spec: str, split: str) -> tuple[Any, tuple[str, ...], str]:
    """A dataset as a stream, with the names of its shards and what differs between datasets."""
    name = os.path.expanduser(spec.removeprefix(PREFIX))
    if not name.partition("@")[0]:
        raise InputError(f"`{STREAM}{PREFIX}` must be followed by the name or folder of a dataset, got nothing.")
    if is_saved(name):
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
    encoded = Encoded(stream.spec, names, lambda index: io.BytesIO(content_of(examples[index])))
    damages = Damages(stream.skip_corrupt)
    shape, wanted = common_shape(encoded, stream.image_size, damages)
    room = evenly_spaced(len(wanted), max(1, HEAD_BYTES // math.prod(shape)))
    wanted = [wanted[index] for index in room.tolist()]
    pixels = torch.empty(len(wanted), *shape, dtype=torch.uint8)
    rows = list(fill(encoded, wanted, pixels, stream.image_size, damages))
    damages.settle(stream.spec, len(examples))
    found = stream.gather(list(pixels[: len(rows)]), [examples[row] for row in rows])
    name = f"the stream {Path(stream.spec.removeprefix(STREAM).removeprefix(PREFIX)).name}, known by a sample"
    skipped = {**({UNREADABLE: damages.count} if damages.count else {}), **damages.notes}
    return Head(name, found.pixels, found.labels, found.class_names, found.captions, skipped=skipped, stream=stream)


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
