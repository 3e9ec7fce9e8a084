from __future__ import annotations

import pytest

from immiscible.comparison.formatting import at_calls, calls, count, decimals, joined, number, percent, spread


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([133.2, 35.0], 1),
        ([9.5, 12.1], 2),
        ([0.012, 0.0004], 5),
        ([0.0], 2),
        ([12345.0], 0),
        ([-28.83], 1),
    ],
)
def test_a_column_shows_its_smallest_value_and_not_too_much_of_its_largest(values: list[float], expected: int) -> None:
    assert decimals(values) == expected


def test_numbers_have_a_true_minus_and_no_negative_zero() -> None:
    assert number(-0.0312) == "\N{MINUS SIGN}0.0312"
    assert number(-0.001, 2) == "0.00"
    assert number(1797.4, 0) == "1,797"


def test_a_spread_takes_the_decimals_of_its_mean_and_is_left_out_with_one_seed() -> None:
    assert spread({"mean": 28.83, "std": 0.52, "values": [28.3, 29.3]}) == "28.8 ± 0.5"
    assert spread({"mean": 28.83, "std": 0.52, "values": [28.3, 29.3]}, 2) == "28.83 ± 0.52"
    assert spread({"mean": 28.83, "std": None, "values": [28.83]}) == "28.8"


def test_per_cent_drops_the_sign_and_claims_no_needless_digits() -> None:
    assert [percent(value) for value in (-73.6, 9.94, 0.4, 1234.5)] == ["74 %", "9.9 %", "less than 1 %", "1,234 %"]


def test_lists_read_as_in_a_sentence() -> None:
    assert [joined(items) for items in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [count(1, "seed"), count(2000, "step")] == ["1 seed", "2,000 steps"]


def test_numbers_of_network_calls_and_solvers_are_told_apart() -> None:
    assert at_calls(["2", "5", "adaptive"]) == "at 2 and 5 network calls and with the adaptive solver"
    assert at_calls(["1"]) == "at 1 network call"
    assert at_calls(["adaptive"]) == "with the adaptive solver"
    assert [calls("1"), calls("50"), calls("adaptive")] == ["1 network call", "50 network calls", "adaptive solver"]
