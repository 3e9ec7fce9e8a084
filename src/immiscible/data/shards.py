"""What a stream is: images in shards, each of which can be read from its beginning, or from where one stopped."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from immiscible.data.captions import check_captions
from immiscible.data.decoding import Corrupt, decode_like
from immiscible.data.examples import Columns, Example, Sharded, value_in
from immiscible.data.hub import unreachable
from immiscible.data.images import Images
from immiscible.errors import InputError, one_line


@dataclass(frozen=True, eq=False)
class Stream:
    """Images in shards, as they are known before the first is read.

    Arguments:
        spec: What the user calls it.
        table: The shards.
        columns: Which these are.
        shards: What messages call each shard.
        identity: What differs between streams, as far as that is known without reading them.
        class_names: One name per class, empty without labels.
        image_size: Crops and resizes every image to a square with this side.
        skip_corrupt: Whether to leave out images that cannot be read.
    """

    spec: str
    table: Sharded
    columns: Columns
    shards: tuple[str, ...]
    identity: str
    class_names: tuple[str, ...] = ()
    image_size: int | None = None
    skip_corrupt: bool = False

    def shard(self, index: int, state: dict[str, Any] | None = None) -> Cursor:
        """One shard, from its beginning or from a state of its reading."""
        return Cursor(self, index, state)

    def decode(self, example: Example, shape: tuple[int, int, int]) -> Tensor:
        """An image as bytes with a shape.

        Raises:
            Corrupt: If it cannot be read.
            InputError: If it is unlike those before it.
        """
        return decode_like(shape, io.BytesIO(content_of(example)), example.name, self.spec, self.image_size)

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


class Cursor:
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
        library = state["library"] if state else None
        self._rows = stream.table.rows(index, stream.columns, library, self.number)

    def state(self) -> dict[str, Any]:
        """Where the example after the last one is, as JSON values."""
        return {"number": self.number, "library": self._rows.state()}

    def __iter__(self) -> Iterator[Example]:
        with _readable(self.name):
            for example in self._rows:
                self.number += 1
                yield example


@dataclass(frozen=True)
class Dataset:
    """A dataset as a :class:`~immiscible.data.examples.Sharded`.

    Arguments:
        table: ``datasets.IterableDataset`` with the columns needed, its images left encoded.
        shards: What messages call each shard.
    """

    table: Any
    shards: tuple[str, ...]

    def rows(self, shard: int, columns: Columns, state: dict[str, Any] | None, number: int) -> DatasetRows:
        """The examples of a shard, see :class:`~immiscible.data.examples.Sharded`."""
        part = self.table.shard(num_shards=len(self.shards), index=shard)
        if state is not None:
            part.load_state_dict(state)
        return DatasetRows(part, columns, self.shards[shard], number)


class DatasetRows:
    """The examples of a shard of a dataset, see :class:`~immiscible.data.examples.Rows`."""

    def __init__(self, part: Any, columns: Columns, shard: str, number: int) -> None:
        self._part, self._columns, self._shard, self._number = part, columns, shard, number

    def state(self) -> dict[str, Any]:
        """That of the library."""
        return self._part.state_dict()

    def __iter__(self) -> Iterator[Example]:
        columns = self._columns
        for number, row in enumerate(self._part, self._number):
            image = row[columns.image]
            name = row.get("__key__") or (image or {}).get("path") or f"image {number}"
            label, caption = value_in(row, columns.label), value_in(row, columns.caption)
            yield Example(f"{self._shard}: {name}", image, label, caption)


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


def content_of(example: Example) -> bytes:
    """The image as a file has it; what a dataset only points to is fetched."""
    import fsspec

    image = example.image or {}
    if image.get("bytes") is not None:
        return image["bytes"]
    if example.damage or image.get("path") is None:
        raise Corrupt(example.damage or "no image")
    with _readable(image["path"]), fsspec.open(image["path"], "rb") as file:
        return file.read()  # pyright: ignore[reportAttributeAccessIssue]


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Says what goes wrong while a shard is read."""
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
