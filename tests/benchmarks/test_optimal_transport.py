"""The page on optimal transport shows what the committed figures give, and figures are of the right paths."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("optimal_transport")


def test_page_shows_the_figures(benchmark: Any) -> None:
    with benchmark.CSV.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = (ROOT / "docs/optimal-transport.md").read_text().splitlines()
    tables = benchmark.page_tables(rows).splitlines()
    assert len(tables) > 5
    assert set(tables) <= set(lines)
    assert {row["coupling"] for row in rows} <= set(benchmark.COUPLINGS)


@pytest.mark.parametrize(("values", "text"), [([0.02], "0.020"), ([1.0, 2.0], "1.50 ± 0.71"), ([123.4, 123.4], "123")])
def test_spread_is_mean_and_deviation(benchmark: Any, values: list[float], text: str) -> None:
    assert benchmark.spread(values) == text


def test_bend_is_zero_for_straight_paths_only(benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / benchmark.SCORES).write_text(
        '{"scores": [{"calls": 2, "nfe": "2", "fid": 3.0, "precision": 0.5, "recall": 0.6}]}'
    )
    (tmp_path / benchmark.SUMMARY).write_text('{"loss": 0.25}')

    def found(network: Any) -> dict[str, float]:
        start = lambda count, seed: SimpleNamespace(noise=torch.zeros(count, 1, 2, 2))  # noqa: E731
        monkeypatch.setattr(benchmark, "load_run", lambda path: SimpleNamespace(start=start, network=network))
        return benchmark.of_run(tmp_path)

    straight = found(lambda x, t, labels: torch.full_like(x, 3.0))
    assert straight["model"] == pytest.approx(9, abs=1e-4)
    assert straight["bend"] == pytest.approx(0, abs=1e-4)
    assert (straight["loss"], straight["fid_2"], straight["precision"], straight["recall"]) == (0.25, 3, 0.5, 0.6)
    # From 0 to twice the time: the mean square of 2t - 1 over time is a third.
    bent = found(lambda x, t, labels: torch.ones_like(x) * 2 * t.view(-1, 1, 1, 1))
    assert bent["bend"] == pytest.approx(1 / 3, abs=0.02)
