"""Intervals hold what they should as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, t

from immiscible.environments.intervals import mean_interval, share_interval
from immiscible.errors import InputError


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (3, 20), (25, 50), (50, 50), (1, 1)])
def test_shares_have_the_interval_of_wilson(hits: int, count: int) -> None:
    found = share_interval([True] * hits + [False] * (count - hits))
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert found.value == hits / count
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_means_have_about_the_interval_of_student_where_numbers_are_normal() -> None:
    numbers = np.random.default_rng(0).normal(3, 2, 200).tolist()
    found = mean_interval(numbers)
    reach = t.ppf(0.975, 199) * np.std(numbers, ddof=1) / np.sqrt(200)
    assert found.value == pytest.approx(np.mean(numbers))
    assert found.high - found.value == pytest.approx(reach, rel=0.06)
    assert found.value - found.low == pytest.approx(reach, rel=0.06)
    assert found == mean_interval(numbers)


def test_without_numbers_there_is_no_interval() -> None:
    for interval in (mean_interval, share_interval):
        with pytest.raises(InputError, match="at least one scene"):
            interval([])


def test_it_is_written_with_its_ends() -> None:
    assert str(share_interval([True, False])) == "0.500 [0.095, 0.905]"
