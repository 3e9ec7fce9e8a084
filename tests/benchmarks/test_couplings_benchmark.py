"""The benchmark measures in turn, judges by its targets and shows what it wrote. No figure is tested here."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def test_calls_are_made_in_turn_and_paired(load):
    calls = []
    timing = load("_timing").side_by_side(lambda: calls.append("A"), lambda: calls.append("B"), repeats=5)
    assert "".join(calls[-10:]) == "ABABABABAB"
    assert (len(timing.ours), len(timing.reference)) == (5, 5)


def test_ratio_is_the_median_over_pairs(load):
    assert load("_timing").Timing([1.0, 9.0, 4.0], [2.0, 3.0, 4.0]).ratio == 1.0


def test_a_slow_question_ends_after_three_pairs(load):
    assert len(load("_timing").side_by_side(lambda: None, lambda: None, repeats=50, budget=0).ours) == 3


def test_number_of_threads_is_restored(load):
    before = torch.get_num_threads()
    with load("_timing").threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("ratio", "target", "met"),
    [
        (1.45, "<= 1.45", "yes"),
        (1.46, "<= 1.45", "no"),
        (0.9, ">= 0.9", "yes"),
        (0.89, ">= 0.9", "no"),
        (0.0166, "<= 1/60", "yes"),
        (0.0167, "<= 1/60", "no"),
        (3.0, "", ""),
    ],
)
def test_targets_are_judged(load, ratio, target, met):
    assert load("couplings").met(ratio, target) == met


def test_table_shows_every_row_of_the_csv(load, tmp_path, monkeypatch):
    couplings = load("couplings")
    rows = [
        couplings.row("Time", "N = 3", "drawing", 1.5, "<= 1.45", ours_ms="3", ours_min_ms="2", repeats="5"),
        couplings.row("Time", "N = 5", "searching", 0.0125, "<= 1/60"),
        couplings.row("Memory", "k = 7", "one tensor", 2, "<= 3"),
    ]
    couplings.write_csv(tmp_path / "couplings.csv", rows)
    with (tmp_path / "couplings.csv").open(newline="") as file:
        assert [line["setting"] for line in csv.DictReader(file)] == ["N = 3", "N = 5", "k = 7"]
    table = tmp_path / "table.md"
    monkeypatch.setattr(sys, "argv", ["couplings.py", "--out", str(tmp_path / "couplings.csv"), "--table", str(table)])
    assert couplings.main() == 0
    text = table.read_text()
    assert "| N = 3 | 3 (2) | drawing |  | 1.5 | ≤ 1.45 | no |" in text
    assert "| N = 5 |  | searching |  | 0.0125 (80 times faster) | ≤ 1/60 | yes |" in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Time", "## Memory"]
    assert f"torch {torch.__version__}" in text


def test_a_missing_reference_is_named_and_skipped(load, monkeypatch):
    couplings = load("couplings")
    monkeypatch.setitem(sys.modules, "torchcfm.optimal_transport", None)
    (row,) = couplings.assignment_against_torchcfm(repeats=1)
    assert (row.ratio, row.met) == ("", "")
    assert "torchcfm's OTPlanSampler('exact'): skipped" in row.reference


def test_synthetic_images_take_the_place_of_missing_ones_and_are_named(load, monkeypatch, tmp_path):
    pictures = load("_images")
    monkeypatch.setattr(pictures, "FASHION_MNIST", tmp_path / "missing.gz")
    x, name = pictures.images(7)
    assert x.shape == (7, 3, 32, 32)
    assert -1 <= x.min() < x.max() <= 1
    assert name.startswith("smooth synthetic")
    # Smooth: neighbours differ by less than pixels far apart.
    assert (x - x.roll(1, 3)).abs().mean() < 0.5 * (x - x.roll(16, 3)).abs().mean()


def test_candidate_search_returns_one_candidate_per_datum(load):
    couplings = load("couplings")
    x = torch.randn(5, 3, 2, 2)
    torch.manual_seed(0)
    found = couplings.candidate_search(x, 4)
    torch.manual_seed(0)
    candidates = torch.randn(5, 4, 3, 2, 2)
    nearest = (candidates - x[:, None]).flatten(2).norm(dim=2).argmin(1)
    torch.testing.assert_close(found, candidates[torch.arange(5), nearest])
