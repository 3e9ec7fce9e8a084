"""Work in threads: in order, raised where it belongs, and over when its caller is."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator
from itertools import islice

import pytest

from immiscible.data.threads import THREADS, WAITING, at_once


def count(begun: list[int], last: int) -> Generator[int]:
    for number in range(last):
        begun.append(number)
        yield number


def slow_square(number: int) -> int:
    time.sleep(0.003 * (number % 3 == 0))
    return number**2


def test_outcomes_come_in_the_order_of_the_items() -> None:
    assert [(item, outcome.result()) for item, outcome in at_once(slow_square, range(40))] == [
        (number, number**2) for number in range(40)
    ]


def test_what_goes_wrong_is_raised_at_its_item() -> None:
    def halved(number: int) -> int:
        if number % 2:
            raise ValueError(str(number))
        return number // 2

    seen = []
    for item, outcome in at_once(halved, range(9)):
        if item % 2:
            with pytest.raises(ValueError, match=f"^{item}$"):
                outcome.result()
        else:
            seen.append(outcome.result())
    assert seen == [0, 1, 2, 3, 4]


def test_items_before_one_that_cannot_be_had_are_worked_on() -> None:
    outcomes = at_once(slow_square, (6 // (3 - number) for number in range(9)))
    assert [(item, outcome.result()) for item, outcome in islice(outcomes, 3)] == [(2, 4), (3, 9), (6, 36)]
    with pytest.raises(ZeroDivisionError):
        next(outcomes)


def test_few_items_are_begun_before_they_are_asked_for() -> None:
    begun: list[int] = []
    with contextlib.closing(at_once(slow_square, count(begun, 10_000))) as outcomes:
        assert [item for item, _ in islice(outcomes, 5)] == [0, 1, 2, 3, 4]
        assert len(begun) <= 5 + WAITING * THREADS + 1


def test_no_thread_is_left() -> None:
    before = set(threading.enumerate())
    with contextlib.closing(at_once(slow_square, range(1000))) as outcomes:
        next(outcomes)
        assert set(threading.enumerate()) - before
    assert set(threading.enumerate()) <= before
    with pytest.raises(ZeroDivisionError):
        list(at_once(slow_square, (1 // (3 - number) for number in range(5))))
    assert set(threading.enumerate()) <= before
