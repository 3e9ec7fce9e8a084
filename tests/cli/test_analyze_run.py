"""``analyze run`` on tiny runs of every system: what is measured, what is left out by name, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from immiscible.cli import main
from immiscible.config.recipes import TinyPipeline
from immiscible.data import load
from immiscible.inspection.study import MEASUREMENTS
from immiscible.tasks.stable_diffusion.tiny import make_tiny

TRAIN = "--steps 4 --batch-size 16 --checkpoint-every 2 --device cpu --no-tensorboard --sample-every 100".split()
SMALL = "--num 24 --starts 4 --steps 4 --features pixels --device cpu".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Halves of some digits, and a run of each system that draws pixels, trained on the first half."""
    place = tmp_path_factory.mktemp("runs")
    digits = load("digits")
    pixels, labels = digits.pixels[:240].permute(0, 2, 3, 1).numpy(), digits.labels
    assert labels is not None
    for name, part in (("seen", slice(0, None, 2)), ("unseen", slice(1, None, 2))):
        np.savez(place / f"{name}.npz", images=pixels[part], labels=labels[:240].numpy()[part])
    for task, coupling in (("flow", "independent"), ("ddim", "assignment"), ("consistency", "knn:4")):
        words = ["train", task, "--data", str(place / "seen.npz"), "--network", "mlp", "--width", "16", "--depth", "1"]
        assert main([*words, *TRAIN, "--coupling", coupling, "--out", str(place / task)]) == 0
    return place


@pytest.fixture(scope="module")
def analysis(place: Path) -> Path:
    runs = [str(place / task) for task in ("flow", "ddim", "consistency")]
    unseen = str(place / "unseen.npz")
    assert main(["analyze", "run", *runs, *SMALL, "--held-out", unseen, "--out", str(place / "out")]) == 0
    return place / "out"


def error_of(capsys: pytest.CaptureFixture[str], words: list[Any]) -> str:
    capsys.readouterr()
    assert main(["analyze", "run", *map(str, words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1, captured.err
    return captured.err


def finite(value: Any) -> bool:
    """Whether all numbers in some JSON values are finite."""
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def test_every_system_is_measured_and_what_it_cannot_do_is_named(analysis: Path) -> None:
    saved = json.loads((analysis / "analysis.json").read_text())
    assert list(saved["runs"]) == ["flow", "ddim", "consistency"]
    for name, run in saved["runs"].items():
        left_out = {"straightness"} if name == "consistency" else set()
        assert run["left_out"].keys() == left_out
        assert list(run["measurements"]) == [measure for measure in MEASUREMENTS if measure not in left_out]
        assert finite(run["measurements"])
        assert [scores["step"] for scores in run["measurements"]["steps"]] == [2, 4]
        assert all(len(scores["fid"]) == 4 for scores in run["measurements"]["steps"])
        assert [kept["weight"] for kept in run["measurements"]["perturbation"]] == [0.1, 0.2, 0.3, 0.5, 1, "unrelated"]
        assert run["measurements"]["memorisation"]["held_out"] == 120
    reason = saved["runs"]["consistency"]["left_out"]["straightness"]
    assert reason == "the sampler of consistency training adds fresh noise on its way"
    assert (saved["data"]["count"], saved["data"]["held_out"], saved["data"]["classes"]) == (120, 120, 10)


def test_pairs_of_the_training_are_those_of_the_coupling(analysis: Path) -> None:
    runs = json.loads((analysis / "analysis.json").read_text())["runs"]
    less = {name: run["measurements"]["transport"]["training"]["reduction"] for name, run in runs.items()}
    assert less["flow"] == 0
    assert less["ddim"] > 5
    assert less["consistency"] > 1


def test_the_page_is_one_file_with_a_section_for_each_measurement(analysis: Path) -> None:
    page = (analysis / "analysis.html").read_text()
    assert all(part not in page for part in ('src="plots', "http://", "https://", "<script"))
    for title in ("Step by step", "perturbed", "How straight paths are", "inherit the coupling", "Are samples new?"):
        assert title in page
    assert "Left out, consistency: </strong>the sampler of consistency training adds fresh noise on its way." in page
    for name in ("steps.png", "steps-dark.png", "strip-1.png", "straightness-2.png", "perturbation.png"):
        assert (analysis / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_command_on_the_page_and_the_printed_results(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(place / "flow"), *SMALL, "--measure", "memorisation,transport", "--nfe", "3"]
    assert main(["analyze", "run", *words, "--json", "--out", str(tmp_path / "a")]) == 0
    printed = json.loads(capsys.readouterr().out)
    saved = json.loads((tmp_path / "a/analysis.json").read_text())
    assert printed == {key: value for key, value in saved.items() if key != "format"}
    run = printed["runs"]["flow"]
    assert list(run["measurements"]) == ["transport", "memorisation"]
    assert run["measurements"]["memorisation"]["held_out"] == 0
    assert run["facts"]["sampler"] == "euler, 3 calls"
    repeated = printed["command"].split()[1:]
    assert main([*repeated, "--out", str(tmp_path / "b")]) == 0
    assert json.loads((tmp_path / "b/analysis.json").read_text())["runs"] == saved["runs"]
    said = capsys.readouterr().out
    assert "flow: transport" in said
    assert f"see {tmp_path / 'b' / 'analysis.html'}" in said


def test_what_is_no_run_or_of_other_data_is_refused(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    other = ["train", "flow", "--data", "digits", "--network", "mlp", "--width", "16", *TRAIN]
    assert main([*other, "--out", str(tmp_path / "other")]) == 0
    flow = place / "flow"
    for words, told in [
        ([], "RUN must be given, got nothing"),
        ([flow], "--out must be given"),
        ([tmp_path / "none", "--out", out], "none"),
        ([flow, flow, "--out", out], "RUN must be different runs, got one of them twice"),
        ([flow, tmp_path / "other", "--out", out], "RUN must be runs on the same data, got"),
        ([flow, "--out", flow / "checkpoints" / "x"], "--out must not lie in what is read"),
        ([flow, "--out", place], "--out must be a new directory"),
        ([flow, "--out", out, flow], "is not expected here"),
        ([flow, "--out", out, "--measure", "beauty"], "--measure must be some of steps, perturbation"),
        ([flow, "--out", out, "--nfe", "adaptive"], "--nfe must be one number here, got adaptive"),
        ([flow, "--out", out, "--num", "1"], "--num must be at least 8"),
        ([flow, "--out", out, "--held-out", place / "seen.npz"], "--held-out must be other images than the data"),
        ([flow, "--out", out, "--held-out", "emoji"], "--held-out must be images with shape (1, 8, 8)"),
        ([flow, "--out", out, "--held-out", "nowhere"], "data must be"),
        ([flow, "--out", out, "--data", "digits"], "digits must be the data that"),
    ]:
        assert told in error_of(capsys, words), words
        assert not out.exists(), words


def test_more_steps_than_a_system_has_are_left_out(place: Path, tmp_path: Path) -> None:
    words = [str(place / "ddim"), *SMALL, "--steps", "1000", "--measure", "steps", "--out", str(tmp_path / "out")]
    short = ["train", "ddim", "--data", str(place / "seen.npz"), "--network", "mlp", "--width", "16", *TRAIN]
    assert main([*short, "--timesteps", "50", "--out", str(tmp_path / "short")]) == 0
    words[0] = str(tmp_path / "short")
    assert main(["analyze", "run", *words]) == 0
    run = json.loads((tmp_path / "out/analysis.json").read_text())["runs"]["short"]
    assert run["measurements"] == {}
    assert "at most the 50 timesteps" in run["left_out"]["steps"]


@pytest.mark.slow
def test_stable_diffusion_is_measured_in_its_latents(tmp_path: Path) -> None:
    make_tiny(TinyPipeline(out=tmp_path / "tiny", data="digits", image_size=16, steps=20, width=8, vae_width=8))
    train = ["train", "stable-diffusion", "--data", "digits", "--model", str(tmp_path / "tiny"), "--mode", "scratch"]
    assert main([*train, *TRAIN, "--coupling", "knn:8", "--out", str(tmp_path / "run")]) == 0
    words = [str(tmp_path / "run"), *SMALL, "--num", "8", "--starts", "2", "--nfe", "3", "--out", str(tmp_path / "out")]
    assert main(["analyze", "run", *words]) == 0
    run = json.loads((tmp_path / "out/analysis.json").read_text())["runs"]["run"]
    assert run["left_out"] == {}
    assert list(run["measurements"]) == list(MEASUREMENTS)
    assert finite(run["measurements"])
    assert run["measurements"]["transport"]["training"]["reduction"] > 1
