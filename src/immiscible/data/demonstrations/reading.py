"""Finds the reader for what a user calls their demonstrations."""

from __future__ import annotations

from typing import Protocol

from immiscible.data.demonstrations.episodes import Demonstrations
from immiscible.data.finding import find_reader
from immiscible.errors import InputError

# In the order in which they are asked. Each is imported when it is its turn.
READERS = ("fork", "npz", "zarr", "lerobot")
ALLOWED = (
    "`fork`, a .npz file, or a folder: what `immiscible make-pusht` made, a zarr store of Push-T, or a LeRobot dataset"
)


class Reader(Protocol):
    """What reads one kind of demonstrations."""

    def matches(self, spec: str) -> bool:
        """Whether data that is called so, which is not nothing, is of this kind."""
        ...

    def read(self, spec: str) -> Demonstrations:
        """Reads it.

        Raises:
            InputError: If it is damaged, or holds something else than demonstrations.
        """
        ...


def read_demonstrations(spec: str) -> Demonstrations:
    """Reads demonstrations into memory.

    Arguments:
        spec: ``fork``, or the path of a ``.npz`` file or of a folder, see the modules of
            :mod:`immiscible.data.demonstrations`.

    Raises:
        InputError: If there is no such source, or it is damaged, or holds something else.
    """
    try:
        reader: Reader = find_reader(
            spec, "immiscible.data.demonstrations", READERS, f"demonstrations must be {ALLOWED}"
        )
        return reader.read(spec)
    except OSError as error:
        raise InputError(f"`{spec}` must be readable, got: {error}.") from error
