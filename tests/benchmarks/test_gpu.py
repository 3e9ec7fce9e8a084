"""The script for accelerators runs where there is none, so that it works where there is one."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_it_measures_couplings_runs_and_resuming_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.csv"
    subprocess.run([sys.executable, SCRIPT, "--device", "cpu", "--quick", "--out", out], check=True)
    with out.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    timed = [row for row in rows if row["ratio"]]
    assert [row["case"].split(",")[0] for row in timed] == ["knn:8", "knn:64", "assignment", "assignment:auction"]
    assert all(float(row["ours_ms"]) > 0 for row in timed)
    assert {row["case"]: row["answer"] for row in rows if "same weights" in row["question"]} == {"bf16": "True"}
    assert len({row["device"] for row in rows}) == 1
