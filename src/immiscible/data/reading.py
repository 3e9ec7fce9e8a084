"""Finds the reader for what a user calls their data."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from immiscible.data.images import Images
from immiscible.data.resize import resized
from immiscible.errors import InputError

DIGITS, EMOJI = "digits", "emoji"
ALLOWED = (
    "`digits`, `emoji`, `fashion-mnist`, `cifar10`, `hf:NAME`, `stream:PATTERN`, `stream:hf:NAME`, a .npy "
    "or .npz file, an IDX file, the archive of CIFAR-10, or a folder of PNG/JPEG images"
)


@dataclass(frozen=True)
class Options:
    """How a source is read; not every kind has all of it, see :func:`load`."""

    image_size: int | None = None
    split: str = "train"
    image_column: str = ""
    label_column: str = ""
    caption_column: str = ""
    skip_corrupt: bool = False
    class_count: int = 0


def load(
    spec: str,
    *,
    image_size: int | None = None,
    split: str = "train",
    image_column: str = "",
    label_column: str = "",
    caption_column: str = "",
    skip_corrupt: bool = False,
    class_count: int = 0,
) -> Images:
    """Loads images, or of a stream some to know it by, see :class:`immiscible.data.readers.stream.Head`.

    Arguments:
        spec: ``digits`` (scikit-learn's 1,797 images of 8x8 pixels), ``emoji`` (with their names as captions),
            ``fashion-mnist``, ``cifar10``, ``hf:`` and the name or folder of a Hugging Face dataset, ``stream:`` and
            either a pattern of tar archives or ``hf:`` and the like, or the path of a ``.npy`` or ``.npz`` file, an IDX
            file, the archive or folder of CIFAR-10, a folder of IDX files, or one of pictures; see the
            modules of their names. A folder that is itself called ``digits`` is spelled ``./digits``.
        image_size: Crops the largest square from the middle and resizes it to this many pixels a side, with
            antialiasing. Without it images keep their size, which must then be the same for all.
        split: ``train`` or ``test``, or what a Hugging Face dataset calls its parts, or a folder its sub-folders where
            all are named as parts of data are. Other kinds have no parts.
        image_column: The column of the images of a Hugging Face dataset, where it has several.
        label_column: The column of its labels, where it has several.
        caption_column: The column of its captions, or of those in a folder's metadata file, where it is not called text
            or caption.
        skip_corrupt: Whether to leave out images that cannot be read, in folders, Hugging Face datasets and streams.
        class_count: The number of classes of a stream whose labels are integers from 0.

    Raises:
        InputError: If there is no such source, or it holds something else than images, or they do not fit together.

    Example:
        >>> load("digits").shape
        (1, 8, 8)
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"`image_size` must be at least 1, got {image_size}.")
    options = Options(image_size, split, image_column, label_column, caption_column, skip_corrupt, class_count)
    try:
        images = _in_parts(spec, options) or _whole(spec, options)
    except OSError as error:
        raise InputError(f"`{spec}` must be readable, got: {error}.") from error
    return images if image_size is None else resized(images, image_size)


def _in_parts(spec: str, options: Options) -> Images | None:
    """Reads data that comes in a training and a test part. Each reader is imported only where it is used."""
    if spec.startswith("stream:"):
        from immiscible.data.readers import stream

        return stream.read(spec, **dataclasses.asdict(options))
    if options.class_count:
        raise InputError(f"--class-count is for streams, got it with {spec}, whose classes are counted.")
    if spec.startswith("hf:"):
        from immiscible.data.readers import huggingface

        asked = dataclasses.asdict(options)
        del asked["class_count"]
        return huggingface.read(spec, **asked)
    if options.image_column or options.label_column or (options.caption_column and not _is_plain_folder(spec)):
        raise InputError(
            "--image-column, --label-column and --caption-column are for Hugging Face datasets and streams, got them "
            f"with {spec}."
        )
    if spec in (DIGITS, EMOJI):
        return None
    from immiscible.data.readers import cifar10, idx

    if spec == idx.FASHION_MNIST:
        return idx.read_fashion_mnist(options.split)
    path = cifar10.find() if spec == cifar10.NAME else Path(os.path.expanduser(spec))
    if spec and cifar10.is_cifar10(path):
        return cifar10.read(path, options.split)
    if spec and idx.is_idx_folder(path):
        return idx.read_folder(path, options.split)
    return None


def _whole(spec: str, options: Options) -> Images:
    """Reads data that has no parts, and folders, which may have them."""
    if options.split != "train" and not _is_plain_folder(spec):
        raise InputError(f"--split is for data that comes in parts, got {options.split} with {spec}.")
    path = Path(os.path.expanduser(spec))
    if spec == DIGITS:
        from immiscible.data.readers import digits

        return digits.read()
    if spec == EMOJI:
        from immiscible.data.readers import emoji

        return emoji.read(options.image_size)
    if spec and os.path.isdir(path):
        from immiscible.data.readers import folder

        return folder.read(path, options.image_size, options.skip_corrupt, options.split, options.caption_column)
    if os.path.isfile(path) and path.suffix.lower() in (".npy", ".npz"):
        from immiscible.data.readers import arrays

        return arrays.read(path)
    if os.path.isfile(path):
        from immiscible.data.readers import idx

        if idx.is_idx_file(path):
            return idx.read_file(path)
    problem = "which is none of these" if os.path.exists(path) and spec else "but there is no such path"
    raise InputError(f"data must be {ALLOWED}, got `{spec}`, {problem}.")


def _is_plain_folder(spec: str) -> bool:
    """Whether a path is that of a folder whose files are looked through."""
    return bool(spec) and spec not in (DIGITS, EMOJI) and os.path.isdir(os.path.expanduser(spec))
