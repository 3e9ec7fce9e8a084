"""The pages show what the committed figures give, and every method is called as it is meant to be."""

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


def test_pages_show_the_figures_of_the_solvers(load: Any) -> None:
    page = load("_solvers_page")
    assert (ROOT / "docs/results/solvers.md").read_text() == page.page(rows("solvers"))
    scaling = (ROOT / "docs/scaling.md").read_text()
    assert "| `slabs` |" in scaling
    assert page.with_table(scaling, rows("solvers")) == scaling
    changed = [{**row, "ms": "1"} if row["ms"] else row for row in rows("solvers")]
    assert page.with_table(scaling, changed) != scaling


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


def test_latents_have_the_spectrum_they_are_said_to_have(load: Any) -> None:
    x, noise = load("solvers").inputs(400, "latents")
    assert x.shape == noise.shape == (400, 4, 32, 32)
    power = torch.fft.fft2(x).abs().square().mean((0, 1))
    # Twice the frequency along an axis has half the power.
    for first in (1, 3, 7):
        assert power[first, 0] / power[2 * first, 0] == pytest.approx(2, rel=0.2)


def test_one_question_measured_again_replaces_its_own_rows_only(load: Any) -> None:
    solvers = load("solvers")
    before = solvers.before()
    again = [
        solvers.Row("others", "KNN(4)", 128, ms="7"),
        solvers.judged("most memory, in MB", "slabs", 8192, 1, "<=", 2),
    ]
    after = solvers.merged(again, "others")
    assert [row for row in after if row.question == "others"] == again[:1]
    assert [row for row in after if row.question == "most memory, in MB"] == again[1:]
    kept = [row for row in before if row.question not in ("others", "most memory, in MB")]
    assert [row for row in after if row not in again] == kept


def test_shares_are_of_the_exact_reduction_on_the_same_data(load: Any) -> None:
    solvers = load("solvers")
    rows = [
        solvers.Row(question, method, 128, reduction_percent=percent)
        for question, method, percent in (
            ("ladder", "exact", "2"),
            ("latents", "exact", "8"),
            ("latents", "slabs", "4"),
            ("others", "slabs", "1"),
        )
    ]
    assert [row.kept for row in solvers.with_kept(rows)] == ["1.0000", "1.0000", "0.5000", "0.5000"]
