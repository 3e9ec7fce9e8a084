"""What Pillow refuses in PNG files that are good pictures: texts of a megabyte, as programs write them.

Pillow reads all texts of a file to the end and stops at a limit which holds for the whole process. So texts that could
pass it are left out of what it is given; what says how a picture lies is kept.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Texts and colour profiles, most of which may be compressed, at most about 1,000 times.
TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
SHORT = 1000
# Texts that may hold the orientation, as long as they are no longer than Pillow takes.
ORIENTED = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
LONG = 2**20


@dataclass(frozen=True)
class Chunk:
    """A part of a file: its kind, where it begins, and its length with everything."""

    kind: bytes
    start: int
    length: int


def readable(file: IO[bytes]) -> IO[bytes]:
    """The same file if it is short of texts, or is no PNG, else one without them."""
    if file.read(len(SIGNATURE)) != SIGNATURE:
        file.seek(0)
        return file
    chunks = list(_chunks(file))
    dropped = {chunk.start for chunk in chunks if _is_long_text(file, chunk)}
    last = next((chunk.start for chunk in reversed(chunks) if chunk.kind == b"IDAT"), 0)
    late = [chunk for chunk in chunks if chunk.kind == b"eXIf" and chunk.start > last]
    if not dropped and not late:
        file.seek(0)
        return file
    # What stands behind the pixels is not read before them, so how they lie is put in front.
    first, rest = chunks[:1], [chunk for chunk in chunks[1:] if chunk not in late]
    kept = [chunk for chunk in [*first, *late, *rest] if chunk.start not in dropped]
    return io.BytesIO(SIGNATURE + b"".join(_content(file, chunk) for chunk in kept))


def _chunks(file: IO[bytes]) -> Iterator[Chunk]:
    """The chunks from where the file is, up to its end or where it is damaged."""
    start = file.tell()
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        yield Chunk(kind, start, length + 12)
        start += length + 12
        file.seek(start)


def _is_long_text(file: IO[bytes], chunk: Chunk) -> bool:
    if chunk.kind not in TEXTS or chunk.length <= SHORT:
        return False
    file.seek(chunk.start + 8)
    plain = chunk.kind == b"tEXt" or (chunk.kind == b"iTXt" and chunk.length < LONG)
    return not (plain and chunk.length < LONG and file.read(64).startswith(ORIENTED))


def _content(file: IO[bytes], chunk: Chunk) -> bytes:
    file.seek(chunk.start)
    return file.read(chunk.length)
