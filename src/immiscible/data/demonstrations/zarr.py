"""Demonstrations from a zarr store in a folder, as Diffusion Policy publishes those of Push-T.

Version 2 of the format is read: each array is a folder with a file ``.zarray`` of metadata, in JSON, and a file for
each chunk. Read are ``data/state``, with shape (T, O), ``data/action``, with shape (T, A), and ``meta/episode_ends``,
with shape (E,); other arrays under ``data``, such as pictures, are counted by name. Push-T is recorded at 10 frames a
second, which the store does not say.

Chunks are unpacked only if they say that they have the bytes that their array's metadata promises. A chunk that is not
there stands for the fill value by the format's rules; here it is refused, since a copy that is not whole looks the
same. Filters, and codecs that run code, are refused.

Sources: the specification of zarr version 2; Chi et al., "Diffusion Policy" (arXiv 2303.04137).
"""

from __future__ import annotations

import bz2
import itertools
import lzma
import math
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from immiscible.data.claims import check_memory
from immiscible.data.demonstrations.episodes import Demonstrations
from immiscible.data.demonstrations.values import as_ends, as_rows, read_object
from immiscible.errors import InputError, one_line

STATE, ACTION, ENDS = "data/state", "data/action", "meta/episode_ends"
GROUP, ARRAY = ".zgroup", ".zarray"
RATE = 10.0
LONGEST = 2**40
NUMBERS = re.compile(r"[<>|][iuf][1248]")
# What the standard library unpacks, up to a length.
STREAMS: dict[str, Any] = {
    "zlib": zlib.decompressobj,
    "gzip": lambda: zlib.decompressobj(zlib.MAX_WBITS | 16),
    "bz2": bz2.BZ2Decompressor,
    "lzma": lzma.LZMADecompressor,
}
ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Header:
    """What the metadata of an array say.

    Attributes:
        path: The folder of the array.
        shape: The lengths of its axes.
        chunks: Those of its chunks; the last ones along an axis may reach beyond it.
        kind: The type of its numbers.
        order: How the numbers of a chunk follow each other, ``C`` or ``F``.
        codec: What its chunks are packed with, or nothing.
        separator: What stands between the numbers in the name of a chunk.
    """

    path: Path
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    kind: np.dtype[Any]
    order: str
    codec: str
    separator: str


def matches(spec: str) -> bool:
    """Whether data is the folder of a zarr store."""
    path = Path(os.path.expanduser(spec))
    return any((path / name).is_file() for name in (GROUP, "zarr.json", f"{STATE}/{ARRAY}"))


def read(spec: str) -> Demonstrations:
    """Reads a store, see this module's description.

    Raises:
        InputError: If it is damaged, of another version, or holds something else.
    """
    folder = Path(os.path.expanduser(spec))
    name = folder.resolve().name
    if (folder / "zarr.json").is_file():
        raise InputError(f"`{name}` must be a zarr store of version 2, got version 3: write it with `zarr_format=2`.")
    missing = [key for key in (STATE, ACTION, ENDS) if not (folder / key / ARRAY).is_file()]
    if missing:
        raise InputError(f"`{name}` must hold the arrays {STATE}, {ACTION} and {ENDS}, got no {', '.join(missing)}.")
    headers = {key: _header(folder / key) for key in (STATE, ACTION, ENDS)}
    claimed = sum(2 * math.prod(header.shape) * header.kind.itemsize for header in headers.values())
    check_memory(name, claimed, "take a part of it")
    arrays = {key: _values(header) for key, header in headers.items()}
    return Demonstrations(
        name,
        as_rows(name, STATE, arrays[STATE]),
        as_rows(name, ACTION, arrays[ACTION]),
        as_ends(name, ENDS, arrays[ENDS]),
        RATE,
        {f"array {other}, which is not read": 1 for other in _others(folder)},
    )


def _others(folder: Path) -> list[str]:
    """The arrays of frames that are not read."""
    names = [f"data/{entry.name}" for entry in sorted((folder / "data").iterdir()) if (entry / ARRAY).is_file()]
    return [name for name in names if name not in (STATE, ACTION)]


def _header(path: Path) -> Header:
    said = read_object(path / ARRAY)
    problem = _problem(said)
    if problem:
        raise InputError(f"`{path / ARRAY}` must describe an array of zarr version 2, got {problem}.")
    packed = said.get("compressor")
    return Header(
        path,
        tuple(said["shape"]),
        tuple(said["chunks"]),
        np.dtype(said["dtype"]),
        said["order"],
        packed["id"] if packed else "",
        said.get("dimension_separator", "."),
    )


def _problem(said: dict[str, Any]) -> str:
    """What is wrong with metadata, or nothing."""
    shape, chunks, packed = said.get("shape"), said.get("chunks"), said.get("compressor")
    if said.get("zarr_format") != 2:
        return f"version {said.get('zarr_format')}"
    if not (_lengths(shape, 0) and _lengths(chunks, 1) and len(chunks or ()) == len(shape or ())):
        return f"the shape {shape} in chunks of {chunks}"
    if not (isinstance(said.get("dtype"), str) and NUMBERS.fullmatch(said["dtype"])):
        return f"the type {said.get('dtype')}: numbers are read"
    if said.get("order") not in ("C", "F") or said.get("dimension_separator", ".") not in (".", "/"):
        return f"the order {said.get('order')} and the separator {said.get('dimension_separator')}"
    if said.get("filters"):
        return "filters, which are not read"
    known = ("blosc", "zstd", "lz4", *STREAMS)
    if packed is not None and not (isinstance(packed, dict) and packed.get("id") in known):
        return f"the compressor {packed}: known are {', '.join(known)}"
    return ""


def _lengths(value: Any, least: int) -> bool:
    return isinstance(value, list) and bool(value) and all(type(n) is int and least <= n < LONGEST for n in value)


def _values(header: Header) -> np.ndarray[Any, Any]:
    """The numbers of an array, from its chunks."""
    values = np.empty(header.shape, header.kind)
    counts = [-(-length // chunk) for length, chunk in zip(header.shape, header.chunks, strict=True)]
    for place in itertools.product(*map(range, counts)):
        begins = [number * chunk for number, chunk in zip(place, header.chunks, strict=True)]
        target = values[tuple(slice(begin, begin + chunk) for begin, chunk in zip(begins, header.chunks, strict=True))]
        target[...] = _chunk(header, place)[tuple(slice(length) for length in target.shape)]
    return values


def _chunk(header: Header, place: tuple[int, ...]) -> np.ndarray[Any, Any]:
    path = header.path / header.separator.join(map(str, place))
    size = math.prod(header.chunks) * header.kind.itemsize
    check_memory(str(path), size, "give its array smaller chunks")
    try:
        packed = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"`{path}` must be there, a chunk of its array, got no such file: is the copy whole?"
        ) from None
    content = _unpacked(path, header.codec, packed, size)
    if len(content) != size:
        raise InputError(
            f"`{path}` must hold the {size} bytes that its array's metadata promise, got {len(content)}: is it whole?"
        )
    return np.frombuffer(content, header.kind).reshape(header.chunks, order="C" if header.order == "C" else "F")


def _unpacked(path: Path, codec: str, packed: bytes, size: int) -> bytes:
    """What a chunk holds, not much more than a size; less or more only where it is not what it should be."""
    if not codec:
        return packed
    try:
        if codec in STREAMS:
            stream = STREAMS[codec]()
            content = stream.decompress(packed, size + 1)
            if len(content) == size and not stream.eof:
                raise EOFError("its end is missing")
            return content
        if _claimed(codec, packed) != size:
            raise InputError(
                f"`{path}` must hold the {size} bytes that its array's metadata promise, got "
                f"{_claimed(codec, packed)} by its own: is it whole?"
            )
        return bytes(_codec(codec).decode(packed))
    except InputError:
        raise
    except (ValueError, RuntimeError, EOFError, OSError, MemoryError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"`{path}` must be packed with {codec}, got: {one_line(error)}: is it whole?") from error


def _claimed(codec: str, packed: bytes) -> int:
    """How many bytes a chunk says that it unpacks to; -1 if it does not, or has not the bytes that it says itself."""
    if codec == "zstd":
        return _claimed_by_zstd(packed)
    if codec == "lz4":
        return int.from_bytes(packed[:4], "little") if len(packed) > 4 else -1
    # Blosc trusts its header: the bytes that it unpacks to, those of a block, and those that it is packed in.
    unpacked, _, there = np.frombuffer(packed[4:16], "<u4") if len(packed) >= 16 else (-1, 0, 0)
    return int(unpacked) if there == len(packed) else -1


def _claimed_by_zstd(packed: bytes) -> int:
    """The size of the content in the header of a frame (RFC 8878, section 3.1.1.1)."""
    if len(packed) < 6 or packed[:4] != ZSTD:
        return -1
    flag, single, dictionary = packed[4] >> 6, packed[4] >> 5 & 1, packed[4] & 3
    length = (single, 2, 4, 8)[flag]
    begin = 5 + (1 - single) + (0, 1, 2, 4)[dictionary]
    value = int.from_bytes(packed[begin : begin + length], "little") if length else -1
    return value + 256 if flag == 1 else value


def _codec(name: str) -> Any:
    try:
        from numcodecs import get_codec
    except ModuleNotFoundError as error:
        raise InputError(
            f"chunks packed with {name} need numcodecs, which is not installed: "
            "`pip install 'immiscible-diffusion[policy]'`."
        ) from error
    return get_codec({"id": name})
