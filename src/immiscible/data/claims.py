"""What a file says that it holds is compared with what it has, and with the memory there is, before it is read.

A header of a hundred bytes may promise a terabyte, and a small packed file may unpack to one.
"""

from __future__ import annotations

import math
import os
import zipfile
from typing import IO

import numpy as np

from immiscible.errors import InputError

# The versions of NumPy's header that have a reader of their own; the third is that of fields, which no images have.
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
AS_IMAGES = "write its images into a folder or into archives instead, see stream: for --data"


def check_memory(name: str, size: int, remedy: str = AS_IMAGES) -> None:
    """Checks that the machine has memory for that many bytes.

    Arguments:
        name: What messages call what has them.
        size: How many there are.
        remedy: What helps if it is whole.

    Raises:
        InputError: If it has not.
    """
    memory = _memory()
    if size > memory:
        raise InputError(
            f"`{name}` must fit into memory, {memory / 2**30:.0f} GiB, got one of {size / 2**30:.0f} GiB by what it "
            f"says: if it is whole, {remedy}."
        )


def _memory() -> int:
    """The bytes of memory that the machine has, without end where that is unknown."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**62


def check_npy(name: str, file: IO[bytes], size: int) -> None:
    """Checks that an array of NumPy has as many bytes as its header says; the file is left where its data begins.

    Arguments:
        name: What messages call it.
        file: The file, at its beginning.
        size: How many bytes it has.

    Raises:
        InputError: If it has not, or they do not fit into memory.
        ValueError: If there is no header.
    """
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        return
    shape, _, kind = HEADERS[version](file)
    if kind.hasobject:
        raise InputError(
            f"`{name}` must be an array without pickled objects, which may run code, got one of {kind}: save a plain "
            "array of numbers."
        )
    claimed, there = math.prod(shape) * kind.itemsize, size - file.tell()
    if claimed != there or min(shape, default=0) < 0:
        told = " x ".join(map(str, shape)) or "one"
        fix = "is it whole?" if claimed > there else "save one array a file, or several with `numpy.savez`."
        raise InputError(
            f"`{name}` must hold the {claimed} bytes of {told} {kind} that its header tells of, got {there}: {fix}"
        )
    check_memory(name, claimed)


def check_npz(name: str, archive: zipfile.ZipFile, keys: list[str]) -> None:
    """The same for some arrays of an archive."""
    for key in keys:
        member = archive.getinfo(f"{key}.npy")
        with archive.open(member) as file:
            check_npy(name, file, member.file_size)
