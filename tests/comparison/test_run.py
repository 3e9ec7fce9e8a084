"""A whole comparison at a small size: what it writes, what it reuses, and how it goes on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from immiscible.cli import main
from immiscible.comparison.plan import command
from immiscible.comparison.scorer import scoring_device
from immiscible.config.comparison import comparison_of
from immiscible.config.recipes import FlowConfig
from immiscible.evaluation.features import features_for
from immiscible.runs.open import load_run
from immiscible.runs.train import train
from immiscible.training.progress import TrainingError

FLAGS = (
    "compare flow --data digits --couplings independent,assignment@0.5,knn:4 --seeds 0,1 --steps 20 --evaluations 2 "
    "--nfe 2,4 --samples 64 --features pixels --batch-size 32 --width 32 --depth 1 --device cpu"
).split()


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "out"
    assert main([*FLAGS, "--out", str(out)]) == 0
    return out


def test_summary_report_and_pictures_are_written(compared: Path) -> None:
    summary = json.loads((compared / "summary.json").read_text())
    assert list(summary["couplings"]) == ["independent", "assignment@0.5", "knn:4"]
    knn = summary["couplings"]["knn:4"]
    assert [point["step"] for point in knn["curves"]["4"]] == [10, 20]
    assert len(knn["curves"]["2"][0]["fid"]["values"]) == 2
    assert knn["biased"]
    assert not summary["couplings"]["assignment@0.5"]["biased"]
    for picture in knn["samples"].values():
        assert (compared / picture).stat().st_size > 0
    # 64 images are few, and everything says so.
    assert "scores of 64 generated images against 1,797 real ones say little" in summary["scores_warning"]
    report = (compared / "report.html").read_text()
    assert summary["scores_warning"] in report
    assert "assignment@0.5" in report
    assert "data:image/png;base64" in report


def test_couplings_start_from_the_same_weights_and_see_the_same_data(compared: Path) -> None:
    """The first loss of two couplings differs by the pairing alone: with coupling off they are equal."""
    losses = {}
    for name in ("independent", "knn-4", "assignment-at-0.5"):
        lines = (compared / "runs" / f"{name}-seed0" / "metrics.jsonl").read_text().splitlines()
        losses[name] = json.loads(lines[0])["loss"]
    assert len(set(losses.values())) == 3
    again = compared.parent / "again"
    flags = [word if word != "independent,assignment@0.5,knn:4" else "independent,knn:1,assignment@0" for word in FLAGS]
    assert main([*flags, "--out", str(again), "--seeds", "0"]) == 0
    same = {
        (again / "runs" / f"{name}-seed0" / "metrics.jsonl").read_text().split('"learning_rate"')[0]
        for name in ("independent", "knn-1", "assignment-at-0")
    }
    assert len(same) == 1


def test_finished_runs_are_reused(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = compared / "runs/knn-4-seed1/checkpoints/step-20/model.safetensors"
    before = (weights.stat().st_mtime_ns, (compared / "summary.json").read_text())
    assert main([*FLAGS, "--out", str(compared), "--json"]) == 0
    assert weights.stat().st_mtime_ns == before[0]
    assert (compared / "summary.json").read_text() == before[1]
    assert json.loads(capsys.readouterr().out) == json.loads(before[1])


def test_other_settings_in_the_same_directory_are_refused(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FLAGS, "--out", str(compared), "--learning-rate", "0.5"]) == 2
    assert "learning_rate was 0.001, is 0.5" in capsys.readouterr().err


def test_report_is_not_replaced_by_that_of_another_comparison(
    compared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (compared / "report.html").read_bytes()
    others = [word.replace(",knn:4", "") for word in FLAGS]
    assert main([*others, "--out", str(compared)]) == 2
    assert "which differs in couplings: give another --out" in capsys.readouterr().err
    mark = compared / "comparison.json"
    kept = mark.read_bytes()
    # Version 0.1.0 left no mark.
    mark.unlink()
    assert main([*others, "--out", str(compared)]) == 2
    assert "holds a comparison of assignment@0.5, independent, knn:4" in capsys.readouterr().err
    mark.write_bytes(kept)
    assert (compared / "report.html").read_bytes() == before


def test_runs_and_comparisons_do_not_take_each_others_place(compared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FLAGS, "--out", str(compared / "runs" / "knn-4-seed0")]) == 2
    assert "got" in (said := capsys.readouterr().err)
    assert "with a training run" in said
    assert main(["train", "flow", "--data", "digits", "--out", str(compared)]) == 2
    assert "with a comparison" in capsys.readouterr().err


@pytest.mark.slow
def test_killed_comparison_goes_on_to_the_same_figures(compared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [sys.executable, "-m", "immiscible.cli", *FLAGS, "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (out / "runs/knn-4-seed0/config.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "summary.json").exists()
    assert main([*FLAGS, "--out", str(out)]) == 0
    ours, theirs = (json.loads((path / "summary.json").read_text()) for path in (out, compared))
    for name, result in theirs["couplings"].items():
        for nfe, curve in result["curves"].items():
            fids = [point["fid"]["values"] for point in curve]
            assert [point["fid"]["values"] for point in ours["couplings"][name]["curves"][nfe]] == [
                pytest.approx(values, rel=1e-3) for values in fids
            ]


QUICK = [*FLAGS, "--couplings", "independent", "--seeds", "0", "--steps", "2", "--evaluations", "1"]


def test_images_are_drawn_and_scored_where_the_training_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no second device here, so the training says that it is on one."""
    elsewhere, asked = torch.device("cuda", 7), []

    def recorded(call: Callable[..., Any]) -> Callable[..., Any]:
        def recorder(*args: Any, device: Any = "cpu", **kwargs: Any) -> Any:
            asked.append((call.__name__, device))
            return call(*args, **kwargs)

        return recorder

    monkeypatch.setattr("immiscible.evaluation.scorer.make_accelerator", lambda _: SimpleNamespace(device=elsewhere))
    monkeypatch.setattr("immiscible.comparison.scorer.load_run", recorded(load_run))
    monkeypatch.setattr("immiscible.evaluation.quality.features_for", recorded(features_for))
    assert main([*QUICK, "--out", str(tmp_path / "out")]) == 0
    assert asked == [("features_for", elsewhere), ("load_run", elsewhere), ("load_run", elsewhere)]


PAIR = [*QUICK, "--couplings", "independent,knn:4", "--seeds", "0,1"]


def diverging(*names: str) -> Callable[..., Any]:
    """Trains, apart from runs whose directories have these names."""

    def trains(run: Any, **settings: Any) -> Any:
        if run.out.name in names:
            raise TrainingError("the loss must be finite, got nan at step 1: try a lower --learning-rate.")
        return train(run, **settings)

    return trains


def test_coupling_that_diverges_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("immiscible.comparison.run.train", diverging("knn-4-seed1"))
    assert main([*PAIR, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    reason = "with seed 1, the loss must be finite, got nan at step 1: try a lower --learning-rate."
    assert said.out.splitlines()[0] == f"knn:4 is left out: {reason}"
    assert said.err.splitlines()[-1].endswith("failed, and left out of the report: knn:4.")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["couplings"]) == ["independent"]
    assert summary["left_out"] == {"knn:4": reason}
    assert len(summary["couplings"]["independent"]["curves"]["4"][0]["fid"]["values"]) == 2
    assert "knn:4 is left out" in (tmp_path / "out" / "report.html").read_text()


def test_comparison_of_which_nothing_is_left_fails_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("immiscible.comparison.run.train", diverging("knn-4-seed0", "independent-seed0"))
    assert main([*PAIR, "--out", str(tmp_path / "out")]) == 1
    assert "the loss must be finite" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out" / "summary.json").exists()


def test_network_that_draws_no_numbers_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ruined(path: Path, **settings: Any) -> Any:
        run = load_run(path, **settings)
        if path.name.startswith("knn"):
            next(run.network.parameters()).data.fill_(torch.nan)
        return run

    monkeypatch.setattr("immiscible.comparison.scorer.load_run", ruined)
    assert main([*PAIR, "--out", str(tmp_path / "out")]) == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["couplings"]) == ["independent"]
    assert "generated images must be finite" in summary["left_out"]["knn:4"]


def test_lost_checkpoints_leave_gaps_that_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*QUICK, "--seeds", "0,1", "--steps", "3", "--evaluations", "3", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    shutil.rmtree(tmp_path / "out/runs/independent-seed1/checkpoints/step-2")
    capsys.readouterr()
    assert main(words) == 0
    assert "independent, seed 1: there is no checkpoint of step 2" in capsys.readouterr().out.splitlines()[0]
    curve = json.loads((tmp_path / "out" / "summary.json").read_text())["couplings"]["independent"]["curves"]["2"]
    assert [(point["step"], len(point["fid"]["values"])) for point in curve] == [(1, 2), (3, 2)]


def test_scoring_takes_the_device_of_the_training() -> None:
    assert scoring_device(FlowConfig(out=Path("x"), device="cpu")) == torch.device("cpu")


def test_too_few_samples_are_refused_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--samples", "3", "--out", str(tmp_path / "out")]) == 2
    assert "at least 4 generated images, got 3" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_command_reproduces_the_configuration() -> None:
    config = comparison_of("flow")(steps=7, evaluations=7, seeds="3", conditional=True, data="my images")
    words = command(config)
    assert "--steps 7" in words
    assert "--conditional" in words
    assert "--data 'my images'" in words
    assert "--batch-size" not in words


@pytest.mark.slow
def test_controls_need_no_training_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start between noise and data shares the runs of the baseline; a prior is drawn from without any."""
    couplings = "independent,independent[start=components:4@0.5],prior:components:4"
    words = [*QUICK, "--couplings", couplings, "--nfe", "2,adaptive", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert [run.name for run in (tmp_path / "out" / "runs").iterdir()] == ["independent-seed0"]
    before = (tmp_path / "out" / "summary.json").read_text()
    summary = json.loads(before)
    assert list(summary["couplings"]) == couplings.split(",")
    plain, begun, prior = (result["curves"] for result in summary["couplings"].values())
    assert plain["2"] != begun["2"]
    assert begun["2"][0]["nfe_mean"] == 2
    assert [point["step"] for point in prior["2"]] == [point["step"] for point in plain["2"]]
    assert prior["2"] == prior["adaptive"]
    assert prior["2"][0]["nfe_mean"] == 0
    assert summary["prior"] == {
        "name": "prior:components:4",
        "scores": {name: prior["2"][0][name]["mean"] for name in ("fid", "kid", "precision", "recall")},
    }
    for result in summary["couplings"].values():
        for picture in result["samples"].values():
            assert (tmp_path / "out" / picture).stat().st_size > 0
    # What is kept is not drawn again: only pictures are.
    monkeypatch.setattr("immiscible.evaluation.quality.score_features", None)
    assert main(words) == 0
    assert (tmp_path / "out" / "summary.json").read_text() == before


def test_every_comparison_of_images_is_held_to_a_prior(compared: Path) -> None:
    summary = json.loads((compared / "summary.json").read_text())
    assert summary["prior"]["name"] == "prior:components:32"
    assert "prior:components:32" not in summary["couplings"]
    assert "Too short to judge training" in (compared / "report.html").read_text()
