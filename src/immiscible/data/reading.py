"""Finds the reader for what a user calls their data.

A reader is a module of :mod:`immiscible.data.readers` with what :class:`Reader` asks for, and a word in
:data:`READERS`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from immiscible.config.groups import ReadOptions
from immiscible.data.finding import find_reader
from immiscible.data.images import Images
from immiscible.data.options import check_taken
from immiscible.data.resize import resized
from immiscible.errors import InputError

# In the order in which they are asked. Each is imported when it is its turn, so that a file of NumPy needs no Pillow.
READERS = ("stream", "huggingface", "digits", "emoji", "arrays", "cifar10", "idx", "folder")
ALLOWED = (
    "`digits`, `emoji`, `fashion-mnist`, `cifar10`, `hf:NAME`, `stream:PATTERN`, `stream:hf:NAME`, a .npy "
    "or .npz file, an IDX file, the archive of CIFAR-10, or a folder of PNG/JPEG images"
)


class Reader(Protocol):
    """What reads one kind of data.

    Attributes:
        TAKES: The options that change what is read; others are refused. An image size is good for any data, and so is
            the permission to skip corrupt images.
    """

    TAKES: Collection[str]

    def matches(self, spec: str) -> bool:
        """Whether data that is called so, which is not nothing, is of this kind."""
        ...

    def read(self, spec: str, options: ReadOptions) -> Images:
        """Reads it. Images may keep their size, they are resized afterwards.

        Raises:
            InputError: If it is damaged, or holds something else than images.
        """
        ...


def load(spec: str, **options: Any) -> Images:
    """Loads images, or of a stream some to know it by, see :class:`immiscible.data.shards.Head`.

    Arguments:
        spec: ``digits`` (scikit-learn's 1,797 images of 8x8 pixels), ``emoji`` (with their names as captions),
            ``fashion-mnist``, ``cifar10``, ``hf:`` and the name or folder of a Hugging Face dataset, ``stream:`` and
            either a pattern of tar archives or ``hf:`` and the like, or the path of a ``.npy`` or ``.npz`` file, an IDX
            file, the archive or folder of CIFAR-10, a folder of IDX files, or one of pictures; see the
            modules of their names. A folder that is itself called ``digits`` is spelled ``./digits``.
        options: The fields of :class:`~immiscible.config.groups.ReadOptions`:

            ``image_size`` crops the largest square from the middle and resizes it to this many pixels a side, with
            antialiasing. Without it images keep their size, which must then be the same for all.

            ``split`` is ``train`` or ``test``, or what a Hugging Face dataset calls its parts, or a folder its
            sub-folders where all are named as parts of data are. Other kinds have no parts.

            ``image_column``, ``label_column`` and ``caption_column`` are columns of a Hugging Face dataset or a stream,
            where it has several; the last also that of a folder's metadata file.

            ``skip_corrupt`` leaves out images that cannot be read, in folders, Hugging Face datasets and streams.

            ``class_count`` is the number of classes of a stream whose labels are integers from 0.

    Raises:
        InputError: If there is no such source, or it holds something else than images, or they do not fit together.

    Example:
        >>> load("digits").shape
        (1, 8, 8)
    """
    return read(spec, ReadOptions(**options))


def read(spec: str, options: ReadOptions) -> Images:
    """The same as :func:`load`, with options as they stand in a configuration."""
    size = options.image_size
    if size is not None and size < 1:
        raise InputError(f"`image_size` must be at least 1, got {size}.")
    try:
        reader: Reader = find_reader(spec, "immiscible.data.readers", READERS, f"data must be {ALLOWED}")
        check_taken(spec, options, reader.TAKES)
        images = reader.read(spec, options)
    except OSError as error:
        raise InputError(f"`{spec}` must be readable, got: {error}.") from error
    return images if size is None else resized(images, size)
