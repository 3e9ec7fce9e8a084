"""Images from IDX files, the format of MNIST and its relatives, plain or gzipped.

A file is a header, two zero bytes, a type code, the number of axes and their lengths, all big-endian, and then the
values. Images are bytes on three axes, labels bytes on one. A folder holds ``train-images-idx3-ubyte`` and
``train-labels-idx1-ubyte``, and the same with ``t10k`` for the test set; the labels of a single file of images are
looked for beside it, under its own name with ``labels-idx1`` for ``images-idx3``. Classes are named by their numbers,
but those of a folder called ``fashion-mnist`` by what they are.

Source of Fashion-MNIST: H. Xiao, K. Rasul and R. Vollgraf, arXiv 1708.07747.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from immiscible.config.groups import ReadOptions
from immiscible.data.images import Images, number_classes
from immiscible.data.options import check_taken
from immiscible.errors import InputError

FASHION_MNIST = "fashion-mnist"
TAKES = ("split",)
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
PREFIXES = {"train": "train", "test": "t10k"}
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
UNSIGNED_BYTES = 8
# A byte that is packed with gzip stands for at most this many.
MOST_PACKED = 1032


def matches(spec: str) -> bool:
    """Whether data is Fashion-MNIST, or a folder or a file of IDX, by the names of files."""
    path = Path(os.path.expanduser(spec))
    return spec == FASHION_MNIST or is_idx_folder(path) or (is_idx_file(path) and os.path.isfile(path))


def read(spec: str, options: ReadOptions) -> Images:
    """Reads Fashion-MNIST, a folder or a file, see this module's description.

    Raises:
        InputError: If the split is not there, or a file is damaged or holds something else.
    """
    path = Path(os.path.expanduser(spec))
    if spec == FASHION_MNIST:
        return read_fashion_mnist(options.split)
    if is_idx_folder(path):
        return read_folder(path, options.split)
    check_taken(spec, options, ())
    return read_file(path)


def read_fashion_mnist(split: str = "train") -> Images:
    """Fashion-MNIST, with shape (60000, 1, 28, 28), or (10000, 1, 28, 28) for the test set, and its labels.

    Raises:
        InputError: If it is neither in ``$IMMISCIBLE_DATA/fashion-mnist`` nor where Debian's package puts it.
    """
    chosen = os.environ.get("IMMISCIBLE_DATA")
    folders = ([Path(os.path.expanduser(chosen)) / FASHION_MNIST] if chosen else []) + [DEBIAN]
    for folder in folders:
        if is_idx_folder(folder):
            return read_folder(folder, split, FASHION_MNIST)
    raise InputError(
        f"the data `{FASHION_MNIST}` must be in {' or '.join(map(str, folders))}, got none there: "
        "`apt install dataset-fashion-mnist`, or give the folder of its four IDX files as --data."
    )


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder holds the images of a training or test set in IDX files."""
    return any(_found(folder, prefix, IMAGES) is not None for prefix in PREFIXES.values())


def is_idx_file(path: Path) -> bool:
    """Whether a file's name is that of images in an IDX file."""
    return path.name.removesuffix(".gz").endswith(("-idx3-ubyte", ".idx3-ubyte"))


def read_folder(folder: Path, split: str = "train", name: str = "") -> Images:
    """Reads the training or test set of a folder, by default under the folder's name, see this module's description.

    Raises:
        InputError: If the split is not there, or a file is damaged or holds something else.
    """
    if split not in PREFIXES:
        raise InputError(f"--split must be one of {', '.join(PREFIXES)} for IDX files, got {split}.")
    images = _found(folder, PREFIXES[split], IMAGES)
    if images is None:
        raise InputError(f"`{folder}` must hold {PREFIXES[split]}-{IMAGES} or the same with .gz for --split {split}.")
    return _read(name or folder.resolve().name, images, _found(folder, PREFIXES[split], LABELS))


def read_file(path: Path) -> Images:
    """Reads a file of images, and the labels beside it, see this module's description.

    Raises:
        InputError: If a file is damaged or holds something else.
    """
    base = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    beside = [path.with_name(base + suffix) for suffix in ("", ".gz")]
    return _read(path.name, path, next((file for file in beside if file.is_file() and file != path), None))


def _found(folder: Path, prefix: str, kind: str) -> Path | None:
    names = [folder / f"{prefix}-{kind}{suffix}" for suffix in ("", ".gz")]
    return next((path for path in names if os.path.isfile(path)), None)


def _read(name: str, images: Path, labels: Path | None) -> Images:
    pixels = torch.from_numpy(_values(images, 3)[:, None])
    if labels is None:
        return Images(name, pixels)
    classes = _values(labels, 1)
    if len(classes) != len(pixels):
        raise InputError(f"`{labels}` must hold a label for each of the {len(pixels)} images, got {len(classes)}.")
    if name == FASHION_MNIST:
        return Images(name, pixels, torch.from_numpy(classes.astype(np.int64)), CLOTHES)
    return Images(name, pixels, *number_classes(classes))


def _values(path: Path, axes: int) -> np.ndarray:
    """The bytes of a file, with as many axes."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _shape(path, file.read(4 + 4 * axes), axes)
            # What a packed file unpacks to shows at its end only, so no more is read than there should be.
            most = path.stat().st_size * (MOST_PACKED if path.suffix == ".gz" else 1)
            content = file.read(min(math.prod(shape), most) + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"`{path}` must be a whole gzip file, got: {error}: fetch it again.") from error
    if len(content) != math.prod(shape) or 0 in shape:
        told = " x ".join(map(str, shape))
        there = f"{len(content)} or more" if len(content) > math.prod(shape) else len(content)
        raise InputError(f"`{path}` must hold the {told} bytes that its header tells of, got {there}: is it whole?")
    return np.frombuffer(bytearray(content), np.uint8).reshape(shape)


def _shape(path: Path, header: bytes, axes: int) -> tuple[int, ...]:
    """The lengths of the axes, from a header."""
    if len(header) < 4 + 4 * axes or header[:4] != bytes((0, 0, UNSIGNED_BYTES, axes)):
        raise InputError(
            f"`{path}` must be an IDX file of bytes on {axes} {'axis' if axes == 1 else 'axes'}, got the header "
            f"{header[:4].hex(' ') or 'of an empty file'}."
        )
    return struct.unpack(f">{axes}I", header[4:])
