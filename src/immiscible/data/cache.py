"""Images too large for memory: decoded once into a file that is mapped into memory from then on.

The file lies under ``$IMMISCIBLE_CACHE``, or else ``~/.cache/immiscible``, in ``images/<key>``. The key is made of the
names, sizes and times of the sources, so a folder that changed is decoded again. One process builds while others wait;
what a killed one leaves behind is never taken for the whole.

Whoever opens a cache reads all of it once and compares it with the checksums of its parts, so that a byte which changed
on the disk is not trained on. That costs about a second per GiB on one core, is shared by the cores, and brings the
images into memory, where they are needed next.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import mmap
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from immiscible.data.images import Images
from immiscible.errors import InputError, one_line
from immiscible.io.console import tracked

# Images that take more bytes than these are not held in memory.
LARGE = 2**30
# Bytes of the images that share a checksum.
PART = 2**26
# Linux' MAP_NORESERVE, which Python has a name for from 3.13 on. Other systems map such files without it.
NO_RESERVE = 0x4000 if sys.platform == "linux" else 0

Fill = Callable[[Tensor], Iterator[int]]


@dataclass(frozen=True)
class Known:
    """What is known of images apart from their pixels, see :class:`~immiscible.data.images.Images`.

    Attributes:
        notes: How many were read in part only, by the reason.
    """

    labels: Tensor | None
    class_names: tuple[str, ...]
    captions: tuple[str, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)


Describe = Callable[[list[int]], Known]


def root(kind: str = "images") -> Path:
    """Where caches of a kind are kept."""
    chosen = os.environ.get("IMMISCIBLE_CACHE")
    return Path(os.path.expanduser(chosen or "~/.cache/immiscible")) / kind


def key_of(parts: Iterable[str]) -> str:
    """The key of a cache, from all that its content depends on."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()[:32]


def state_of(file: Path, name: str) -> str:
    """What changes when a file does; one that is not there is found out when it is to be read."""
    try:
        found = file.stat()
    except OSError as error:
        return f"{name} {error.errno}"
    return f"{name} {found.st_size} {found.st_mtime_ns}"


def find(key: str) -> Images | None:
    """The images of a key, mapped into memory, if they are there.

    Raises:
        InputError: If they are there and damaged, or have changed.
    """
    folder = root() / key
    if not os.path.isdir(folder):
        return None
    try:
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        pixels = _mapped(folder / "pixels.npy", facts["count"])
        labels = torch.tensor(facts["labels"]) if facts["labels"] is not None else None
        captions, notes = tuple(facts.get("captions", ())), facts.get("notes", {})
        images = Images(
            facts["name"],
            pixels,
            labels,
            tuple(facts["class_names"]),
            captions,
            facts["fingerprint"],
            notes,
            _mean(folder / "mean.npy", facts),
        )
        _check_sums(images, facts)
    except (
        AttributeError,
        IndexError,
        KeyError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        raise InputError(
            f"the cache `{folder}` must be whole, got: {one_line(error)}: delete it, to decode again."
        ) from error
    return images


def build(key: str, name: str, shape: Sequence[int], fill: Fill, describe: Describe) -> Images:
    """Decodes images into a cache, unless another process has done so meanwhile.

    Arguments:
        key: The key.
        name: The name of the data.
        shape: The shape (N, C, H, W) of all images, if all can be read.
        fill: Writes the images into the rows of a tensor, yielding the index of each.
        describe: Gives what else is known of the images with some indices.

    Raises:
        InputError: If the disk is full or cannot be written to.
    """
    folder = root() / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder.with_suffix(".lock")):
            if not folder.is_dir():
                _write(folder, name, shape, fill, describe)
    except OSError as error:
        size = math.prod(shape) / 2**30
        raise InputError(
            f"decoded images need {size:.1f} GiB in `{folder.parent}`, got: {error}: free some, or set "
            "IMMISCIBLE_CACHE to another place."
        ) from error
    found = find(key)
    assert found is not None
    return found


def _write(folder: Path, name: str, shape: Sequence[int], fill: Fill, describe: Describe) -> None:
    """Builds a cache beside its place, and moves it there when it is whole."""
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        facts = _decode(aside / "pixels.npy", name, shape, fill, describe)
        (aside / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _decode(path: Path, name: str, shape: Sequence[int], fill: Fill, describe: Describe) -> dict[str, Any]:
    """Fills the array, and gives what is written beside it."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=tuple(shape))
    _reserve(path)
    indices = list(tracked(fill(torch.from_numpy(array)), f"decoding {name}", shape[0]))
    array.flush()
    found = describe(indices)
    pixels = torch.from_numpy(array)[: len(indices)]
    images = Images(name, pixels, found.labels, found.class_names, found.captions)
    facts = {
        "name": name,
        "count": len(indices),
        "labels": None if found.labels is None else found.labels.tolist(),
        "class_names": list(found.class_names),
        "captions": list(found.captions),
        "notes": dict(found.notes),
        "fingerprint": images.fingerprint(),
        "mean": _save_mean(path.with_name("mean.npy"), images),
        "parts": _sums(pixels),
    }
    return {**facts, "seal": _seal(facts)}


def _save_mean(path: Path, images: Images) -> str:
    """Keeps the mean, which every start of a run asks for, and gives its checksum."""
    mean = images.mean().numpy()
    np.save(path, mean)
    return hashlib.sha256(mean.data).hexdigest()


def _mean(path: Path, facts: dict[str, Any]) -> Tensor | None:
    """The mean that was kept; caches of earlier versions have none.

    Raises:
        ValueError: If it is not what was written.
    """
    if "mean" not in facts:
        return None
    mean = np.load(path, allow_pickle=False)
    if hashlib.sha256(mean.data).hexdigest() != facts["mean"]:
        raise ValueError("a mean.npy that has changed since it was written")
    return torch.from_numpy(mean)


def _check_sums(images: Images, facts: dict[str, Any]) -> None:
    """Checks that images and facts are what was written.

    Raises:
        ValueError: If they are not.
    """
    if "seal" not in facts:
        # Written before parts had checksums: the fingerprint is one of everything.
        if dataclasses.replace(images, digest="").fingerprint() != facts["fingerprint"]:
            raise ValueError("images that have changed since they were written")
        return
    if _seal({name: value for name, value in facts.items() if name != "seal"}) != facts["seal"]:
        raise ValueError("a facts.json that has changed since it was written")
    changed = [n for n, (was, now) in enumerate(zip(facts["parts"], _sums(images.pixels), strict=True)) if was != now]
    if changed:
        raise ValueError(
            f"images that have changed since they were written, in {len(changed)} of {len(facts['parts'])} parts"
        )


def _sums(pixels: Tensor) -> list[str]:
    """The checksums of the parts of images."""
    flat = pixels.contiguous().view(-1).numpy()
    parts = [flat[first : first + PART] for first in range(0, len(flat), PART)]
    # Hashing lets go of the interpreter.
    with ThreadPoolExecutor(min(len(parts), os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda part: hashlib.sha256(part.data).hexdigest(), parts))


def _seal(facts: dict[str, Any]) -> str:
    """The checksum of everything but the pixels."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _reserve(path: Path) -> None:
    """Takes the room on the disk now: where a mapped file finds none later, the system kills the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _mapped(path: Path, count: int) -> Tensor:
    """Rows of an array, whose pages are read when they are needed; what is written to them stays in this process.

    It is what ``np.load(path, mmap_mode="c")`` gives. But that sets memory aside for changes to all of the file, and so
    Linux refuses it for files larger than memory, which are those that matter here.
    """
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape = np.lib.format.read_array_header_1_0(file)[0]
        access = mmap.PROT_READ | mmap.PROT_WRITE
        pages = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | NO_RESERVE, prot=access)
        array = np.frombuffer(pages, np.uint8, offset=file.tell()).reshape(shape)
    return torch.from_numpy(array)[:count]


@contextmanager
def alone(lock: Path, *, wait: bool = True) -> Iterator[bool]:
    """Waits until no other process is in here, or else gives False; the system lets go of a killed one's lock."""
    held = FileLock(lock, timeout=-1 if wait else 0, fallback_to_soft=False)
    try:
        held.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        held.release()
