"""CIFAR-10 from its original archives: 60,000 colour images of 32x32 pixels in 10 classes.

*Binary version*: records of a label and 3,072 bytes, channels first. *Python version*: serialised dictionaries, which
are never executed. :mod:`pickletools` lists the instructions of such a file, and the two values wanted are picked out
of the list: the one long string is the pixels, and the small numbers after the key ``labels`` are the labels. Whatever
else a file asks for is not done.

Source: A. Krizhevsky, Learning multiple layers of features from tiny images, 2009.
"""

from __future__ import annotations

import os
import pickletools
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch

from immiscible.config.groups import ReadOptions
from immiscible.data.images import Images
from immiscible.errors import InputError

NAME = "cifar10"
TAKES = ("split",)
PYTHON, BINARY = "cifar-10-batches-py", "cifar-10-batches-bin"
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")
TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
FILES = {
    ("train", PYTHON): TRAINING,
    ("test", PYTHON): ("test_batch",),
    ("train", BINARY): tuple(f"{name}.bin" for name in TRAINING),
    ("test", BINARY): ("test_batch.bin",),
}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
VALUES = 3 * 32 * 32
# No part of the archives is larger.
LARGEST = 2**26
STRINGS = ("BINSTRING", "SHORT_BINSTRING", "STRING", "BINBYTES", "SHORT_BINBYTES", "BINUNICODE", "SHORT_BINUNICODE")
NUMBERS = ("BININT", "BININT1", "BININT2", "INT", "LONG1")
# What stands between a key and the members of its list, and between these: a long list is filled in batches of 1,000.
PADDING = ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE", "EMPTY_LIST", "MARK", "APPEND", "APPENDS")


def matches(spec: str) -> bool:
    """Whether data is CIFAR-10, by its name or by that of its archive or folder."""
    return spec == NAME or is_cifar10(Path(os.path.expanduser(spec)))


def is_cifar10(path: Path) -> bool:
    """Whether a path is one of the archives, or of the folders in them, by its name."""
    return path.name in ARCHIVES if os.path.isfile(path) else _version(path) is not None


def find() -> Path:
    """Where the archives or their folders lie.

    Raises:
        InputError: If they are not there.
    """
    chosen = os.environ.get("IMMISCIBLE_DATA")
    places = ([Path(os.path.expanduser(chosen))] if chosen else []) + [
        Path(os.path.expanduser("~/.cache/immiscible/data"))
    ]
    for place in places:
        for name in (PYTHON, BINARY, *ARCHIVES):
            if is_cifar10(place / name):
                return place / name
    raise InputError(
        f"the data `{NAME}` must be in {' or '.join(map(str, places))}, got none there: put {ARCHIVES[0]} or "
        f"{ARCHIVES[1]} there, or give its path as --data."
    )


def read(spec: str, options: ReadOptions) -> Images:
    """Reads CIFAR-10, with shape (50000, 3, 32, 32), or (10000, 3, 32, 32) for the test set, and its labels.

    Raises:
        InputError: If a part is missing or damaged.
    """
    path, split = find() if spec == NAME else Path(os.path.expanduser(spec)), options.split
    if split not in ("train", "test"):
        raise InputError(f"--split must be train or test for {NAME}, got {split}.")
    contents = _from_archive(path, split) if path.is_file() else _from_folder(path, split)
    parts = [(_binary if name.endswith(".bin") else _python)(name, content) for name, content in contents]
    pixels, labels = (np.concatenate(some) for some in zip(*parts, strict=True))
    return Images(NAME, torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)), CLASSES)


def _version(folder: Path) -> str | None:
    """Which of the two versions a folder holds."""
    for version in (PYTHON, BINARY):
        if any(os.path.isfile(folder / FILES[split, version][0]) for split in ("train", "test")):
            return version
    return None


def _from_folder(folder: Path, split: str) -> list[tuple[str, bytes]]:
    files = [folder / name for name in FILES[split, _version(folder) or PYTHON]]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise InputError(f"`{folder}` must hold all of {NAME}, got no {', '.join(missing)}.")
    if large := [file.name for file in files if file.stat().st_size > LARGEST]:
        raise InputError(f"`{folder}` must hold parts of {NAME}, got {large[0]} of more than {LARGEST} bytes.")
    return [(file.name, file.read_bytes()) for file in files]


def _from_archive(path: Path, split: str) -> list[tuple[str, bytes]]:
    """The parts of an archive, read by their names; nothing is unpacked to disk."""
    version = PYTHON if path.name == ARCHIVES[0] else BINARY
    contents = []
    try:
        with tarfile.open(path, "r:gz") as archive:
            for name in FILES[split, version]:
                member = archive.extractfile(f"{version}/{name}")
                if member is None:
                    raise KeyError(name)
                # One byte more than there may be shows that there are more.
                contents.append((name, member.read(LARGEST + 1)))
                if len(contents[-1][1]) > LARGEST:
                    raise KeyError(f"{name} of more than {LARGEST} bytes")
    except (tarfile.TarError, OSError, EOFError, KeyError, zlib.error) as error:
        raise InputError(f"`{path}` must be the whole archive of {NAME}, got: {error}: fetch it again.") from error
    return contents


def _binary(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    if not content or len(content) % (VALUES + 1):
        raise InputError(f"`{name}` of {NAME} must hold records of {VALUES + 1} bytes, got {len(content)} bytes.")
    records = np.frombuffer(content, np.uint8).reshape(-1, VALUES + 1)
    return _checked(name, records[:, 1:].tobytes(), records[:, 0].tolist())


def _python(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels, listing = b"", [], False
    try:
        for opcode, value, _ in pickletools.genops(content):
            if opcode.name in STRINGS:
                listing = value in ("labels", b"labels")
                data = value.encode("latin-1", "replace") if isinstance(value, str) else bytes(value or b"")
                pixels = max(pixels, data, key=len)
            elif listing and opcode.name in NUMBERS:
                labels.append(value)
            elif opcode.name not in PADDING:
                listing = False
    except (ValueError, IndexError, UnicodeError) as error:
        raise InputError(f"`{name}` of {NAME} must be a whole file of its Python version, got: {error}.") from error
    return _checked(name, pixels, labels)


def _checked(name: str, pixels: bytes, labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    if not labels or len(pixels) != VALUES * len(labels):
        raise InputError(
            f"`{name}` of {NAME} must hold {VALUES} bytes for each label, got {len(pixels)} bytes and "
            f"{len(labels)} labels."
        )
    if not 0 <= min(labels) <= max(labels) < len(CLASSES):
        raise InputError(f"`{name}` of {NAME} must have labels from 0 to 9, got {min(labels)} to {max(labels)}.")
    return np.frombuffer(pixels, np.uint8).reshape(-1, *SHAPE).copy(), np.array(labels)
