"""What a coupling says about itself in plain words."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from immiscible import KNN, Independent, LinearAssignment, Mixed, describe
from immiscible.couplings.explain import claims_exact

SPELLINGS = ["independent", "knn:8", "knn:2.5:dot", "assignment", "assignment:512", "knn:4@0.5", "assignment:512@0.25"]
SPELLINGS += ["assignment:worst", "assignment:entropic:0.3", "reservoir:256", "cells:256:16"]
SPELLINGS += ["components:16:0.8", "mixture:10:16"]
MARKUP = re.compile(r":\w+:|``|`|\*\*|\\|[{}]|^\s*\*", re.MULTILINE)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_three_lines_in_plain_words(spelling):
    description = describe(spelling)
    assert description.name == spelling
    for line in (description.moves, description.marginal, description.cost):
        assert len(line.split()) >= 1
        assert line.endswith(".")
        assert line != "not documented."
        assert "\n" not in line
        assert not MARKUP.search(line), line


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_text_shows_name_and_all_lines(spelling):
    description = describe(spelling)
    name, *lines = str(description).splitlines()
    assert name == spelling
    assert [line.split()[0] for line in lines] == ["moves", "marginal", "cost"]
    assert [line.split(maxsplit=1)[1] for line in lines] == [description.moves, description.marginal, description.cost]


def test_marginal_says_whether_the_law_stays_exact():
    assert describe("independent").marginal.startswith("exact")
    assert describe("assignment").marginal.startswith("exact")
    assert describe("knn:8").marginal.startswith("biased")
    assert "biased" in describe("knn:8@0.5").marginal


def test_cost_is_written_with_powers():
    assert "O(N^2 D)" in describe("assignment").cost
    assert "O(B (D + k))" in describe("knn:8").cost


@pytest.mark.parametrize("inner", [KNN(8), LinearAssignment(), Independent()], ids=str)
def test_mixed_repeats_what_its_inner_coupling_says(inner):
    description, inside = describe(Mixed(inner, 0.5)), describe(inner)
    assert description.moves.endswith(f" Inner: {inside.moves}")
    assert description.marginal.endswith(f" Inner: {inside.marginal}")
    assert description.cost.endswith(f" Inner: {inside.cost}")


def test_couplings_and_spellings_are_described_alike():
    assert describe(KNN(8)) == describe("knn:8")


def test_function_without_the_lines_is_not_documented():
    def swap(x, noise, *, labels=None, generator=None):
        """Swaps."""
        return noise.flip(0)

    description = describe(swap)
    assert description.name == "swap"
    assert {description.moves, description.marginal, description.cost} == {"not documented."}


def test_function_describes_itself_by_the_same_lines():
    def swap(x, noise, *, labels=None, generator=None):
        return noise.flip(0)

    vars(swap).update(moves="whole noises, in reverse order.", law="exact.", cost="O(B^2 D), B.")
    description = describe(swap)
    assert description.moves == "whole noises, in reverse order."
    assert description.marginal == "exact."
    assert description.cost == "O(B^2 D), B."


def test_what_is_no_text_is_not_documented():
    def swap(x, noise, *, labels=None, generator=None):
        return noise.flip(0)

    vars(swap).update(moves=3, law="exact.")
    description = describe(swap)
    assert [description.moves, description.marginal, description.cost] == [
        "not documented.",
        "exact.",
        "not documented.",
    ]


def test_nothing_is_lost_where_python_drops_docstrings():
    program = "import immiscible; print(*map(immiscible.describe, ('assignment:512@0.25', 'knn:8')), sep='\\n', end='')"
    command = [sys.executable, "-OO", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{describe('assignment:512@0.25')}\n{describe('knn:8')}"
    assert "not documented" not in done.stdout


@pytest.mark.parametrize(
    ("spelling", "exact"),
    [
        ("independent", True),
        ("assignment:512", True),
        ("assignment@0.5", True),
        ("reservoir:256@0.5", True),
        ("cells:256:16", True),
        ("components:16:0.8", False),
        ("mixture:10:16", False),
        ("knn:4", False),
        ("knn:4@0.5", False),
        ("knn:4:dot@0.25", False),
    ],
)
def test_a_wrapper_is_as_exact_as_what_is_in_it(spelling: str, exact: bool) -> None:
    assert claims_exact(spelling) == exact
