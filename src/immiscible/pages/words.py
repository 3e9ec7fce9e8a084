"""Numbers and lists in words, as all pages write them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def joined(items: Iterable[str]) -> str:
    """Joins words as in a sentence: ``a, b and c``."""
    *head, last = items
    return f"{', '.join(head)} and {last}" if head else last


def count(number: int, noun: str) -> str:
    """A number with its noun: ``1 seed``, ``2,000 steps``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def decimals(values: Sequence[float]) -> int:
    """How many decimals a column needs: three digits for its smallest value, at most four for its largest."""
    sizes = [abs(value) for value in values if value]
    if not sizes:
        return 2
    return max(0, min(2 - _magnitude(min(sizes)), 3 - _magnitude(max(sizes)), 6))


def _magnitude(value: float) -> int:
    return math.floor(math.log10(value))


def number(value: float, places: int | None = None) -> str:
    """A number with a true minus sign; three significant digits unless the decimals are given."""
    places = decimals([value]) if places is None else places
    value = round(value, places) or 0.0  # no negative zero
    return f"{value:,.{places}f}".replace("-", "\N{MINUS SIGN}")
