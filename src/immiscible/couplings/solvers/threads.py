"""Small problems side by side: as many at once as torch may use threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """A function of every item, in order. It pays for solvers, which have one thread and let go of the interpreter."""
    items, threads = list(items), torch.get_num_threads()
    if threads == 1 or len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(threads, len(items)), "immiscible-blocks") as workers:
        return list(workers.map(function, items))
