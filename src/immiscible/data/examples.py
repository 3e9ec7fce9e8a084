"""What a stream reads: examples, and where the parts of one are found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Columns:
    """Where the parts of an example are: in columns, or in a field of one, ``json.title``; nothing for none.

    In archives columns are the endings of files; there, no image column means any ending of a picture, and several may
    be given, ``jpg;png``.
    """

    image: str
    label: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Example:
    """An image of a stream as it was read, not decoded yet.

    Attributes:
        name: What messages call it.
        image: Its ``bytes``, or the ``path`` of a file that has them.
        label: Its class, as it was found.
        caption: Its caption, as it was found.
        damage: Why there is no image, where that is known.
    """

    name: str
    image: dict[str, Any] | None
    label: Any = None
    caption: Any = None
    damage: str = ""


class Rows(Protocol):
    """The examples of one shard, from its beginning or from where a reading stopped."""

    def __iter__(self) -> Iterator[Example]: ...

    def state(self) -> dict[str, Any]:
        """Where the example after the last one is, as JSON values."""
        ...


class Sharded(Protocol):
    """Shards of examples."""

    def rows(self, shard: int, columns: Columns, state: dict[str, Any] | None, number: int) -> Rows:
        """The examples of a shard.

        Arguments:
            shard: Which one.
            columns: Where the parts of an example are.
            state: Where to go on, as :meth:`Rows.state` gave it; the beginning by default.
            number: How many examples come before.
        """
        ...


def value_in(row: dict[str, Any], column: str) -> Any:
    """What a column holds, or a field of a column."""
    if not column or column in row:
        return row.get(column)
    root = root_of(column, row)
    inside = row.get(root)
    return inside.get(column[len(root) + 1 :]) if isinstance(inside, dict) else None


def root_of(column: str, columns: Any) -> str:
    """The column that a column is, or that it is a field of."""
    roots = [name for name in columns if column == name or column.startswith(f"{name}.")]
    return max(roots, key=len, default=column.partition(".")[0])
