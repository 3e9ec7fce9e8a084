"""Policies are rolled out by ``evaluate`` and ``compare``, and on the fork measured against the law."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from immiscible.cli import main
from immiscible.environments.pusht import scene
from immiscible.evaluation.policies import FIRST_SCENE, PUSHT

pytest.importorskip("gym_pusht")

SMALL = [*"--process flow --width 16 --depth 1 --batch-size 8 --device cpu".split()]
TRAIN = [*SMALL, *"--steps 2 --checkpoint-every 1 --keep-checkpoints 0 --no-tensorboard".split()]


@pytest.fixture(scope="module")
def pusht(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demonstrations of a disc that stays where it is, and a policy that saw them twice."""
    place = tmp_path_factory.mktemp("pusht")
    states = np.stack([scene(seed) for seed in range(6)]).repeat(20, 0).astype(np.float32)
    ends = np.arange(20, 121, 20)
    np.savez(place / "stay.npz", observations=states, actions=states[:, :2], episode_ends=ends)
    assert main(["train", "policy", "--data", str(place / "stay.npz"), *TRAIN, "--out", str(place / "run")]) == 0
    return place


def evaluated(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["evaluate", *words, "--device", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_policy_is_rolled_out_in_scenes_of_its_own_and_filmed(pusht: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, video = str(pusht / "run"), pusht / "out.gif"
    words = [run, "--episodes", "2", "--nfe", "1", "--video", str(video)]
    (row,) = evaluated(capsys, *words)
    assert (row["samples"], row["calls"], row["seed"], row["features"]) == (2, 1, FIRST_SCENE, "")
    assert row["largest_coverage"] == pytest.approx(np.mean(row["largest_coverages"]), abs=1e-5)
    assert set(row["intervals"]) >= {metric.name for metric in PUSHT}
    assert all(low <= row[name] <= high for name, (low, high) in row["intervals"].items())
    assert "say little" in row["warning"]
    with Image.open(video) as film:
        assert getattr(film, "n_frames", 1) > 10
    assert main(["evaluate", *words[:-1], str(pusht / "out.avi")]) == 2
    assert "--video must end in .gif or .mp4, got" in capsys.readouterr().err
    # Kept, and not measured again.
    assert evaluated(capsys, *words) == [row]
    assert json.loads((pusht / "run/evaluation.json").read_text())["scores"] == [row]


def test_last_checkpoints_are_scored_with_their_mean(pusht: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(pusht / "run"), "--episodes", "1", "--nfe", "1", "--last", "2"]
    first, second, mean = evaluated(capsys, *words)
    assert (first["step"], second["step"], mean["mean_of_steps"]) == (1, 2, [1, 2])
    assert mean["coverage"] == pytest.approx((first["coverage"] + second["coverage"]) / 2)
    assert main(["evaluate", *words]) == 0
    assert "mean of 2" in capsys.readouterr().out
    assert main(["evaluate", *words[:-1], "3"]) == 2
    assert "--last must be at most the number of checkpoints, 2, got 3" in capsys.readouterr().err


@pytest.mark.slow
def test_ways_round_are_counted_from_symmetric_starts(pusht: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(pusht / "run"), "--episodes", "1", "--nfe", "1", "--modes"]
    (row,) = evaluated(capsys, *words)
    assert [modes["episodes"] for modes in row["modes"]] == [1] * 6
    assert main(["evaluate", *words]) == 0
    assert capsys.readouterr().out.count("from (") == 6


@pytest.mark.slow
def test_policies_are_compared_by_coverage(pusht: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "policy", "--data", str(pusht / "stay.npz"), *SMALL, "--steps", "2", "--seeds", "0"]
    words += ["--couplings", "independent,assignment", "--evaluations", "1", "--samples", "1", "--nfe", "1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "coverage" in capsys.readouterr().out
    page = re.sub(r"base64,[^\"]*", "", (tmp_path / "out/report.html").read_text())
    assert "Coverage" in page
    assert "FID" not in page
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["metrics"][0]["name"] == "largest_coverage"
    assert (tmp_path / "out" / summary["couplings"]["assignment"]["samples"]["1"]).stat().st_size > 1000


def test_on_the_fork_plans_are_held_against_the_law(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    assert main(["train", "policy", "--data", "fork", *TRAIN, "--out", run]) == 0
    (row,) = evaluated(capsys, run, "--episodes", "4", "--nfe", "2")
    # A network that has learnt nothing goes neither way.
    assert row["strays"] > 0.5
    assert 0 <= row["share_error"] <= 1
    for flag in (["--video", str(tmp_path / "a.gif")], ["--modes"]):
        assert main(["evaluate", run, *flag]) == 2
        assert f"{flag[0]} need a policy in Push-T, got one of fork" in capsys.readouterr().err


def test_what_has_no_simulator_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a.npz", observations=np.ones((40, 3)), actions=np.ones((40, 1)), episode_ends=[40])
    run = str(tmp_path / "run")
    assert main(["train", "policy", "--data", str(tmp_path / "a.npz"), *TRAIN, "--out", run]) == 0
    capsys.readouterr()
    assert main(["evaluate", run]) == 2
    error = capsys.readouterr().err
    assert "with 5 numbers observed and 2 done, got 3 and 1" in error
    assert main(["evaluate", run, "--num", "8"]) == 2
    assert "--num must be left out for policies" in capsys.readouterr().err
