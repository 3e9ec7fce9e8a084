from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from immiscible.comparison.summary import Trained, first_step_at, over_seeds, steps_to_baseline


def trained(seed: int, *fids: float) -> Trained:
    rows: list[dict[str, Any]] = [
        {"step": 100 * (i + 1), "nfe": "5", "calls": 5, "fid": fid, "kid": 0.0, "precision": 0.5, "recall": 0.5}
        for i, fid in enumerate(fids)
    ]
    return Trained("knn:4", seed, Path("run"), {}, rows)


def test_goal_is_reached_between_two_points() -> None:
    curve = [(100, 8.0), (200, 4.0), (300, 5.0)]
    assert first_step_at(curve, 5.0) == 175.0
    assert first_step_at(curve, 8.0) == 100.0
    assert first_step_at(curve, 9.0) == 100.0
    assert first_step_at(curve, 3.9) is None


def test_ratio_is_paired_by_seed() -> None:
    baseline = [trained(0, 9.0, 5.0), trained(1, 9.0, 7.0)]
    runs = [trained(0, 5.0, 1.0), trained(1, 8.0, 7.5)]
    ratio = steps_to_baseline(runs, baseline, "5")
    assert ratio["values"] == [0.5, None]
    assert ratio["reached"] == 1
    assert ratio["of"] == 2
    assert ratio["ratio"] == {"mean": 0.5, "std": None, "values": [0.5]}


def test_baseline_that_was_best_early_is_measured_from_there() -> None:
    baseline = [trained(0, 9.0, 3.0, 5.0)]
    ratio = steps_to_baseline(baseline, baseline, "5")
    assert ratio["values"] == [1.0]
    assert steps_to_baseline([trained(0, 9.0, 9.0, 5.0)], baseline, "5")["values"][0] == pytest.approx(
        300 / 166.6667, 1e-4
    )


def test_spread_of_one_value_is_unknown() -> None:
    assert over_seeds([2.0])["std"] is None
    torch.testing.assert_close(over_seeds([1.0, 3.0])["std"], 2**0.5)
