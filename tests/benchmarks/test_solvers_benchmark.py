"""The pages and README show what the committed figures give, and every method is called as it is meant to be."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def rows(name: str) -> list[dict[str, str]]:
    with (BENCHMARKS / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_page_and_readme_show_the_figures_of_the_solvers(load: Any) -> None:
    page = load("_solvers_page")
    assert (ROOT / "docs/results/solvers.md").read_text() == page.page(rows("solvers"))
    readme = (ROOT / "README.md").read_text()
    assert "| `slabs` |" in readme
    assert page.with_table(readme, rows("solvers")) == readme
    changed = [{**row, "ms": "1"} if row["ms"] else row for row in rows("solvers")]
    assert page.with_table(readme, changed) != readme


def test_page_shows_the_figures_of_pools(load: Any) -> None:
    assert (ROOT / "docs/results/pools.md").read_text() == load("pools").page(rows("pools"))


def test_page_of_scaling_shows_its_arithmetic(load: Any) -> None:
    scaling = load("scaling")
    solvers = scaling.measured_solvers()
    text = (ROOT / "docs/scaling.md").read_text()
    assert scaling.hidden(solvers) in text
    assert scaling.on_paper(solvers) in text


def test_times_between_sizes_and_beyond_follow_a_power(load: Any) -> None:
    points = [{"n": "1000", "solve_ms": "10"}, {"n": "2000", "solve_ms": "40"}, {"n": "4000", "solve_ms": "320"}]
    solver = load("scaling").Solver(points)
    for count, seconds in ((1000, 0.01), (1414.2136, 0.02), (2000, 0.04), (4000, 0.32), (8000, 2.56)):
        assert solver.seconds(count) == pytest.approx(seconds, rel=1e-6)


@pytest.mark.parametrize(
    "name", ["exact", "blocks of 1024", "auction", "sinkhorn", "slabs", "SciPy on the float32 product"]
)
def test_assignments_permute_and_come_nearer(load: Any, name: str) -> None:
    solvers = load("solvers")
    x, noise = solvers.inputs(48)
    paired = solvers.METHODS[name](x, noise)
    order = [some.flatten(1)[:, 0].sort().values for some in (paired, noise)]
    torch.testing.assert_close(*order, rtol=0, atol=0)
    assert solvers.distance(x, paired) < solvers.distance(x, noise)


def test_target_is_judged_by_its_sign(load: Any) -> None:
    judged = load("solvers").judged
    assert [judged("a", "b", 1, value, "<=", 1.0).met for value in (0.9, 1.1)] == ["yes", "no"]
    assert [judged("a", "b", 1, value, ">=", 1.0).met for value in (0.9, 1.1)] == ["no", "yes"]
