from __future__ import annotations

import pytest

from immiscible.comparison.verdict import best, verdict


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([8.0, 8.1, 8.2], [10.0, 10.2, 10.1], "ahead"),
        ([10.0, 10.2, 10.1], [8.0, 8.1, 8.2], "behind"),
        ([10.0, 10.0, 10.0], [10.0, 10.0, 10.0], "level"),
        # The mean difference is far above its standard error, but one seed says otherwise.
        ([1.0] * 9 + [10.1], [10.0] * 10, "level"),
        # All seeds agree in sign, but the mean, 2, is exactly twice the standard error, 1.
        ([9.0, 7.0], [10.0, 10.0], "level"),
        ([9.0, 7.1], [10.0, 10.0], "ahead"),
        # The spread over seeds is wide, but the seeds are compared in pairs.
        ([9.0, 19.0, 29.0], [10.0, 20.0, 30.1], "ahead"),
    ],
)
def test_ahead_needs_the_same_sign_in_every_seed_and_twice_the_standard_error(
    ours: list[float], theirs: list[float], expected: str
) -> None:
    assert verdict(ours, theirs) == expected


def test_higher_is_better_where_it_is() -> None:
    assert verdict([0.7, 0.71], [0.6, 0.61], lower_is_better=False) == "ahead"


def test_one_seed_decides_nothing() -> None:
    assert verdict([1.0], [100.0]) == "single"


def test_values_of_different_seeds_are_not_paired() -> None:
    with pytest.raises(ValueError, match="longer"):
        verdict([1.0, 2.0], [1.0, 2.0, 3.0])


def test_the_best_is_ahead_of_every_other_coupling(make_summary, set_final) -> None:
    summary = make_summary(3, ("5",))
    assert best(summary, "5", "fid") == "assignment@0.5"
    set_final(summary, "assignment", "5", 15.0, 16.1, 15.7)
    assert best(summary, "5", "fid") is None


def test_there_is_no_best_of_one_seed_or_of_one_coupling(make_summary) -> None:
    assert best(make_summary(1, ("5",)), "5", "fid") is None
    assert best(make_summary(3, ("5",), ("independent",)), "5", "fid") is None
