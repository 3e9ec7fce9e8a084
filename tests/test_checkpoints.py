"""The weights that come with the repository give the samples and the scores that are said of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from immiscible.cli import main

FOLDER = Path(__file__).parents[1] / "checkpoints"
NAMES = sorted(path.name for path in FOLDER.glob("*/")) if FOLDER.is_dir() else []
# In megabytes, of all of them: a clone should stay small.
MOST = 15

pytestmark = pytest.mark.skipif(not NAMES, reason="an sdist has no checkpoints")


def test_all_are_small_say_where_they_are_from_and_name_no_place_of_a_machine() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < MOST * 1e6
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
        assert f"`{name}`" in readme
        assert "None were measured" not in card
        config = json.loads((FOLDER / name / "config.json").read_text(encoding="utf-8"))
        assert config["places"] == {}
        assert not any(isinstance(value, str) and value.startswith("/") for value in config.values())


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("pusht")])
def test_samples_are_drawn_in_seconds(name: str, tmp_path: Path) -> None:
    grid = tmp_path / "grid.png"
    assert main(["sample", str(FOLDER / name), "--num", "4", "--nfe", "2", "--device", "cpu", "--out", str(grid)]) == 0
    assert grid.stat().st_size > 0


@pytest.mark.slow
def test_the_recorded_score_is_found_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(FOLDER / "digits-independent", run)
    recorded = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["scores"]
    (run / "evaluation.json").unlink()
    assert main(["evaluate", str(run), "--nfe", "5", "--device", "cpu"]) == 0
    (found,) = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["scores"]
    (known,) = (row for row in recorded if row["nfe"] == "5")
    assert found["fid"] == pytest.approx(known["fid"], rel=5e-3)
