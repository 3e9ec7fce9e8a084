"""Tar archives as webdataset has them: files of one key that follow one another are an example.

*Keys* end at the first dot of a file's name, as webdataset has it, unless the names show that dots belong to them:
where no ending of several dots comes twice, as in ``img.001.png`` and ``img.002.png``, keys end at the last.

*Images* are whatever has the ending of a picture; endings may differ between and within archives.

*Damage.* Readers of tar take a damaged header for the end of an archive. Here what stands behind it is read, and the
damage is an example that cannot be read, so it is counted and named as those are. Archives that were put behind one
another in one file are read to the last.
"""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import json
import lzma
import os
import posixpath
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any

from immiscible.data.captions import COLUMNS
from immiscible.data.examples import Columns, Example, root_of, value_in
from immiscible.data.images import evenly_spaced
from immiscible.data.listing import SUFFIXES
from immiscible.errors import InputError, one_line

# A tar archive consists of blocks, and ends with empty ones.
BLOCK = 512
# Archives, and files of each, that are looked at to learn what examples have.
LOOKED_AT, FILES = 16, 256
# No file of an example is larger.
LARGEST = 2**30
TEXTS = ("txt", "text", "transcript", "caption")
NUMBERS = ("cls", "cls2", "index", "inx", "id")
DOCUMENTS = ("json", "jsn")
PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
ZSTANDARD = b"\x28\xb5\x2f\xfd"
LABEL = "cls"


@dataclass(frozen=True)
class Entry:
    """A file in an archive, or a place where the archive is damaged.

    Attributes:
        name: The file's name, none for damage.
        start: Where its header begins, in bytes from the beginning of the archive unpacked.
        content: Where its content begins; for damage, where the next header is.
        size: How many bytes it has, -1 for a link to another.
    """

    name: str
    start: int
    content: int
    size: int = 0


@dataclass(frozen=True)
class Group:
    """The files of an example, or damage.

    Attributes:
        key: What they have in common, none for damage.
        after: Where the next example begins.
        files: Each file and its content by its ending; the content of those that are not needed is left out.
    """

    key: str
    after: int
    files: dict[str, tuple[Entry, bytes]] = field(default_factory=dict)


@dataclass(frozen=True)
class Archives:
    """Archives as a :class:`~immiscible.data.examples.Sharded`.

    Arguments:
        files: The archives.
        last_dot: Whether keys end at the last dot of a name.
    """

    files: tuple[str, ...]
    last_dot: bool = False

    def rows(self, shard: int, columns: Columns, state: dict[str, Any] | None, number: int) -> ArchiveRows:
        """The examples of an archive, see :class:`~immiscible.data.examples.Sharded`."""
        return ArchiveRows(self, self.files[shard], columns, state, number)


class ArchiveRows:
    """The examples of one archive, see :class:`~immiscible.data.examples.Rows`."""

    def __init__(
        self, archives: Archives, file: str, columns: Columns, state: dict[str, Any] | None, number: int
    ) -> None:
        self.archives, self.file, self.columns = archives, file, columns
        # Checkpoints of version 0.1 say nothing but how many examples come before.
        self._offset = (state or {}).get("offset", 0)
        self._passed = number if state and "offset" not in state else 0

    def state(self) -> dict[str, Any]:
        """Where the next example begins."""
        return {"offset": self._offset}

    def __iter__(self) -> Iterator[Example]:
        with opened(self.file) as archive:
            groups = _grouped(archive, self._offset, self.archives.last_dot, self._needed)
            for passed, group in enumerate(groups):
                before, self._offset = self._offset, group.after
                if passed >= self._passed:
                    yield self._example(group, before)

    def _needed(self, ending: str) -> bool:
        columns = self.columns
        images = ending in columns.image.lower().split(";") if columns.image else _is_picture(ending)
        return images or any(column.startswith(ending) for column in (columns.label, columns.caption) if column)

    def _example(self, group: Group, before: int) -> Example:
        shard = os.path.basename(self.file)
        if not group.key:
            return Example(f"{shard}: byte {before}", None, damage="a damaged header, and what follows up to the next")
        name = f"{shard}: {group.key}"
        entry, content = group.files.get(_image_ending(group.files, self.columns.image, name), (None, b""))
        if entry is None:
            return Example(name, None, damage="no image")
        if not 0 <= entry.size <= LARGEST:
            return Example(name, None, damage=f"{entry.size} bytes" if entry.size > 0 else "a link to another file")
        label, caption = (_decoded(group, column, name) for column in (self.columns.label, self.columns.caption))
        return Example(name, {"bytes": content, "path": None}, label, caption)


def look_at(files: tuple[str, ...], spec: str, asked: Columns) -> tuple[Archives, Columns]:
    """Finds out how names are made up and which columns there are.

    Arguments:
        files: The archives.
        spec: What messages call them.
        asked: The columns that flags name.

    Raises:
        InputError: If one is no archive, or a column that is asked for is not there, or several files may be
            the image.
    """
    chosen = evenly_spaced(len(files), LOOKED_AT).tolist()
    names: list[list[str]] = []
    for index in [*chosen, *(index for index in range(len(files)) if index not in chosen)]:
        if index not in chosen and any(names):
            break
        names.append(_first_names(files[index]))
    last_dot = not asked.image and _dots_belong_to_keys(names)
    fields = [example for some in names for example in _fields(some, last_dot)]
    known = sorted({name for example in fields for name in example})
    _check_images(spec, fields, asked.image, known)
    for flag, column in (("--label-column", asked.label), ("--caption-column", asked.caption)):
        if column and root_of(column, known) not in known:
            raise InputError(f"{flag} must be one of {', '.join(known)}, or a field of one, got {column}.")
    label = asked.label or (LABEL if LABEL in known else "")
    caption = asked.caption or next((name for name in COLUMNS if name in known), "")
    return Archives(files, last_dot), Columns(asked.image, label, caption)


def check_end(file: str) -> None:
    """Checks that a plain archive has its end: reading one that was cut between two files shows no fault.

    Raises:
        InputError: If it has not.
    """
    size = os.path.getsize(file)
    with open(file, "rb") as archive:
        packed = _packing(archive.read(6))
        archive.seek(max(0, size - BLOCK))
        whole = size % BLOCK == 0 and archive.read() == bytes(BLOCK)
    if file.endswith(".tar") and not packed and not whole:
        raise InputError(
            f"`{file}` must be a whole tar archive, got {size} bytes without its end: write or download it again."
        )


def opened(file: str) -> IO[bytes]:
    """An archive's bytes, unpacked where it is packed, whatever its name says."""
    with open(file, "rb") as archive:
        magic = archive.read(6)
    if magic.startswith(ZSTANDARD):
        raise InputError(
            f"`{file}` must be a tar archive, plain or packed with gzip, bzip2 or xz, got zstd: unpack it."
        )
    opener: Any = _packing(magic)
    return opener(file, "rb") if opener else open(file, "rb")


def _packing(magic: bytes) -> Any:
    return next((opener for start, opener in PACKED.items() if magic.startswith(start)), None)


def _first_names(file: str) -> list[str]:
    """The names of the first files of an archive."""
    try:
        with opened(file) as archive:
            return [entry.name for entry in islice(entries_of(archive), FILES) if entry.name]
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError) as error:
        raise InputError(
            f"`{file}` must be a tar archive of images as webdataset has them, got: {one_line(error)}."
        ) from error


def entries_of(archive: IO[bytes], position: int = 0) -> Iterator[Entry]:
    """The files of an archive from a position on, and a nameless entry for each place where it is damaged.

    Raises:
        tarfile.TarError: If it is no archive at all, or ends within a file.
    """
    while position >= 0:
        archive.seek(position)
        end = position
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            for member in tar:
                if member.issparse():
                    raise tarfile.ReadError(f"the sparse file {member.name}")
                size = member.size if member.isreg() else -1
                end = member.offset_data + _in_blocks(max(size, 0))
                if member.isreg() or member.islnk() or member.issym():
                    yield Entry(member.name, member.offset, member.offset_data, size)
        position = _next_content(archive, end)
        if position >= 0 and not _is_header(archive, position):
            following = _next_header(archive, position)
            yield Entry("", position, following)
            position = following


def _in_blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _next_content(archive: IO[bytes], position: int) -> int:
    """Where the next block that is not empty begins, -1 for nowhere."""
    archive.seek(position)
    while block := archive.read(BLOCK):
        if block.strip(b"\0"):
            return position
        position += BLOCK
    return -1


def _next_header(archive: IO[bytes], position: int) -> int:
    """Where the next header begins, or the archive ends."""
    archive.seek(position)
    while len(block := archive.read(BLOCK)) == BLOCK and not _is_valid(block):
        position += BLOCK
    return position + (len(block) if len(block) < BLOCK else 0)


def _is_header(archive: IO[bytes], position: int) -> bool:
    archive.seek(position)
    return _is_valid(archive.read(BLOCK))


def _is_valid(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def split_name(name: str, last_dot: bool) -> tuple[str, str]:
    """The key and the ending, in small letters, of a file's name; neither where it is hidden or has no ending."""
    folder, base = posixpath.split(name)
    key, dot, ending = base.rpartition(".") if last_dot else base.partition(".")
    if not key or not dot or base.startswith("__"):
        return "", ""
    return posixpath.join(folder, key), ending.lower()


def _grouped(archive: IO[bytes], start: int, last_dot: bool, needed: Callable[[str], bool]) -> Iterator[Group]:
    """The examples of an archive from a position on."""
    held = Group("", start)
    for entry in entries_of(archive, start):
        key, ending = split_name(entry.name, last_dot)
        if held.files and (not entry.name or key not in ("", held.key)):
            yield dataclasses.replace(held, after=entry.start)
            held = Group("", entry.start)
        if not entry.name:
            yield Group("", entry.content)
        elif key:
            if ending in held.files:
                raise InputError(f"an example must have each ending once, got two files {entry.name}: rename one.")
            content = _bytes(archive, entry) if needed(ending) else b""
            # An archive is read forwards, so what is needed is read now.
            held = Group(key, entry.content + _in_blocks(max(entry.size, 0)), {**held.files, ending: (entry, content)})
    if held.files:
        yield held


def _image_ending(files: Iterable[str], asked: str, name: str) -> str:
    """The ending of the file that is an example's image, or nothing."""
    if asked:
        return next((ending for ending in asked.lower().split(";") if ending in files), "")
    found = [ending for ending in files if _is_picture(ending)]
    if len(found) > 1:
        raise InputError(
            f"an example must have one image, or --image-column name it, got {', '.join(found)} in {name}."
        )
    return found[0] if found else ""


def _is_picture(ending: str) -> bool:
    return f".{ending.rpartition('.')[2]}" in SUFFIXES


def _bytes(archive: IO[bytes], entry: Entry) -> bytes:
    if not 0 <= entry.size <= LARGEST:
        return b""
    archive.seek(entry.content)
    content = archive.read(entry.size)
    if len(content) < entry.size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def _decoded(group: Group, column: str, name: str) -> Any:
    """What a file of an example says, or a field of it; nothing where there is no such file."""
    ending = root_of(column, group.files)
    if not column or ending not in group.files:
        return None
    kind, content = ending.rpartition(".")[2], group.files[ending][1]
    if kind not in (*TEXTS, *NUMBERS, *DOCUMENTS):
        raise InputError(f"labels and captions must be in .txt, .cls or .json files, got .{ending} in {name}.")
    try:
        text = content.decode("utf-8-sig")
        if kind in TEXTS:
            return text
        return value_in({ending: json.loads(text) if kind in DOCUMENTS else int(text)}, column)
    except (ValueError, RecursionError) as error:
        wanted = "text in UTF-8" if kind in TEXTS else "a whole number" if kind in NUMBERS else "JSON"
        raise InputError(
            f"the .{ending} of {name} must be {wanted}, got: {one_line(error)}: write it again."
        ) from error


def _fields(names: list[str], last_dot: bool) -> list[set[str]]:
    """The endings of each example that the first files of an archive make."""
    examples: dict[str, set[str]] = {}
    for name in names:
        key, ending = split_name(name, last_dot)
        if key:
            examples.setdefault(key, set()).add(ending)
    return list(examples.values())


def _dots_belong_to_keys(archives: list[list[str]]) -> bool:
    """Whether keys have dots, which shows where endings of several dots never come twice."""
    counts: Counter[str] = Counter()
    for names in archives:
        counts.update(ending for example in _fields(names, last_dot=False) for ending in example)
    several = [count for ending, count in counts.items() if "." in ending and _is_picture(ending)]
    return len(several) > 1 and max(several) == 1


def _check_images(spec: str, examples: list[set[str]], asked: str, known: list[str]) -> None:
    """Checks that each example that was looked at has one image at most, and that there are any."""
    pictures = [[name for name in sorted(example) if _is_picture(name)] for example in examples]
    there = any(name in known for name in asked.lower().split(";")) if asked else any(pictures)
    most = max(pictures, key=len, default=[])
    if there and (asked or len(most) == 1):
        return
    got = f"--image-column {asked}" if asked else f"{', '.join(most) or 'no images'} in an example"
    raise InputError(
        f"`{spec}` must have one column of images, or --image-column name it, got {got} of "
        f"{', '.join(known) or 'none'}."
    )
