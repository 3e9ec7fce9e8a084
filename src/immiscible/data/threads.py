"""Work that goes on in threads while its caller does something else: one item ahead, or several at once.

What is read, unpacked and decoded lets go of the interpreter for most of its time. Results come in order, what goes
wrong in a thread is raised where the result was to come, and no thread outlives its generator.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

# At most this many: each picture also needs the interpreter for a part of its time.
THREADS = min(8, os.cpu_count() or 1)
# Results that wait for each thread, so that a slow item does not hold up the others.
WAITING = 4


def ahead(items: Generator[T]) -> Generator[T]:
    """The same items, each made in a thread of its own while the one before is used.

    What goes wrong in the thread is raised where the item was to come. Closing waits for the thread.
    """
    end: Any = object()
    with contextlib.closing(items), ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item


def at_once(function: Callable[[T], R], items: Iterable[T]) -> Generator[tuple[T, Future[R]]]:
    """Calls a function with each of many items, several at once, and gives the outcomes in the order of the items.

    Few results wait at a time, however many items there are. Closing waits for what has begun.

    Arguments:
        function: What to call, from any thread.
        items: The arguments.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    problem: Exception | None = None
    pool = ThreadPoolExecutor(THREADS)
    try:
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > WAITING * THREADS:
                    yield waiting.popleft()
        except Exception as error:
            # What the items before give comes first.
            problem = error
        while waiting:
            yield waiting.popleft()
        if problem is not None:
            raise problem
    finally:
        pool.shutdown(cancel_futures=True)
