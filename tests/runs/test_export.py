"""Exported pipelines, loaded by diffusers alone, give the samples of the run from the same noise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers.pipelines.consistency_models.pipeline_consistency_models import ConsistencyModelPipeline
from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline

from immiscible.cli import main
from immiscible.runs.model_card import code, plain
from immiscible.runs.open import load_run
from immiscible.samplers import DiffusionSampler, Multistep
from immiscible.seeds import generator

BASE = (
    "--data digits --network unet --width 8 --depth 2 --layers 1 --steps 4 --batch-size 16 --ema 0.5 --no-tensorboard "
    "--device cpu"
)


def trained(out: Path, task: str, *extra: str) -> Path:
    assert main(["train", task, *BASE.split(), "--out", str(out), *extra]) == 0
    return out


@pytest.fixture(scope="module")
def ddim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("ddim") / "run", "ddim", "--schedule-shift", "1.5")


@pytest.fixture(scope="module")
def consistency(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("consistency")
    rng = np.random.default_rng(0)
    # The stock pipeline takes given noise of three channels only.
    colour = {"images": rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), "labels": np.arange(40) % 4}
    np.savez(folder / "colour.npz", **colour)
    return trained(folder / "run", "consistency", "--conditional", "--data", str(folder / "colour.npz"))


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def as_shown(images: torch.Tensor) -> torch.Tensor:
    return (images / 2 + 0.5).clamp(0, 1)


def test_ddim_pipeline_gives_the_same_samples(ddim: Path, tmp_path: Path) -> None:
    assert main(["export", str(ddim), str(tmp_path / "out")]) == 0
    pipeline = quiet(DDIMPipeline.from_pretrained(tmp_path / "out"))
    # The noise of image i is the first draw of a generator of its own, here as there.
    draws = [generator("cpu", 7, "sample", i) for i in range(5)]
    theirs = pipeline(batch_size=5, generator=draws, num_inference_steps=10, output_type="pt").images
    run = load_run(ddim)
    ours = run.sample(run.start(5, 7), DiffusionSampler("ddim", 10)).images
    torch.testing.assert_close(as_shown(ours), theirs, rtol=0, atol=1e-4)


def test_ddpm_pipeline_walks_the_same_schedule(ddim: Path, tmp_path: Path) -> None:
    """Its fresh noise comes from the generators of the start, so the start is taken apart: same noise, same images."""
    assert main(["export", str(ddim), str(tmp_path / "out"), "--sampler", "ddpm"]) == 0
    pipeline = quiet(DDPMPipeline.from_pretrained(tmp_path / "out"))
    run = load_run(ddim)
    torch.testing.assert_close(pipeline.scheduler.betas, run.task.schedule.betas)  # pyright: ignore
    start = run.start(3, 0)
    x, draws = start.noise, start.generators()
    pipeline.scheduler.set_timesteps(8)
    with torch.no_grad():
        for t in pipeline.scheduler.timesteps:
            x = pipeline.scheduler.step(pipeline.unet(x, t).sample, t, x, generator=draws).prev_sample
    torch.testing.assert_close(run.sample(start, DiffusionSampler("ddpm", 8)).images, x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 2])
def test_consistency_pipeline_gives_the_same_samples(consistency: Path, tmp_path: Path, steps: int) -> None:
    assert main(["export", str(consistency), str(tmp_path / "out")]) == 0
    pipeline = quiet(ConsistencyModelPipeline.from_pretrained(tmp_path / "out"))
    run = load_run(consistency)
    start = run.start(6, 3)
    asked: dict[str, Any] = (
        {"num_inference_steps": 1} if steps == 1 else {"num_inference_steps": None, "timesteps": [24, 0]}
    )
    theirs = pipeline(
        batch_size=6,
        class_labels=start.labels,
        latents=start.noise,
        generator=start.generators(),
        output_type="pt",
        **asked,
    ).images
    ours = run.sample(start, Multistep(steps)).images
    torch.testing.assert_close(as_shown(ours), theirs, rtol=0, atol=1e-4)


def test_card_tells_task_coupling_data_scores_and_a_command_that_works(ddim: Path, tmp_path: Path) -> None:
    assert main(["evaluate", str(ddim), "--nfe", "2", "--num", "32", "--features", "pixels", "--device", "cpu"]) == 0
    assert main(["export", str(ddim), str(tmp_path / "out")]) == 0
    card = (tmp_path / "out/README.md").read_text()
    row = json.loads((ddim / "evaluation.json").read_text())["scores"][0]
    assert f"| ddim | 2 | {row['fid']:.3f} |" in card
    assert "principal components of the pixels" in card
    for said in (
        "Data: `digits`",
        "`assignment`",
        "library_name: diffusers",
        "- diffusers:DDIMPipeline",
        "(https://arxiv.org/abs/2010.02502)",
    ):
        assert said in card
    command = card.split("```sh\n")[1].split("\n```")[0].split()
    assert command[:3] == ["immiscible", "train", "ddim"]
    again = [*command[1:-1], str(tmp_path / "again"), "--device", "cpu", "--no-tensorboard"]
    assert main(again) == 0
    ours, theirs = load_run(ddim), load_run(tmp_path / "again")
    torch.testing.assert_close(ours.network.state_dict(), theirs.network.state_dict(), rtol=0, atol=0)


@pytest.mark.slow
def test_usage_in_the_card_runs_without_this_package(consistency: Path, ddim: Path, tmp_path: Path) -> None:
    assert main(["export", str(ddim), str(tmp_path / "out")]) == 0
    usage = (tmp_path / "out/README.md").read_text().split("```python\n")[1].split("\n```")[0]
    usage = usage.replace("DIRECTORY_OR_REPOSITORY", str(tmp_path / "out")).replace("=50", "=2").replace("=16", "=1")
    check = "import sys; assert 'immiscible' not in sys.modules; print(images.images[0].size)"
    done = subprocess.run([sys.executable, "-c", f"{usage}\n{check}"], capture_output=True, text=True)
    assert done.stdout.strip() == "(8, 8)", done.stderr


def told(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("task", "extra", "said"),
    [
        ("flow", "", "diffusers has no unconditional pipeline for flows"),
        ("ddim", "--network mlp --layers 2", "export needs a U-Net, got a run with the mlp"),
        ("ddim", "--conditional", "export needs an unconditional run for diffusion, got one with 10 classes"),
        ("consistency", "--data-scale 2", "export needs --data-scale 1, got 2.0"),
    ],
)
def test_what_the_pipelines_cannot_express_is_refused(
    task: str, extra: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path / "run", task, *extra.split())
    assert said in told(capsys, ["export", str(run), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_nothing_is_replaced(ddim: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert "DIR must be a new directory" in told(capsys, ["export", str(ddim), str(tmp_path)])
    assert "--sampler must be one of ddim, ddpm" in told(
        capsys, ["export", str(ddim), str(tmp_path / "out"), "--sampler", "multistep"]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_export_is_uploaded_where_asked(
    ddim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[tuple[str, Any]] = []

    class Hub:
        def create_repo(self, name: str, private: bool, exist_ok: bool) -> None:
            done.append((name, private))

        def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> str:
            done.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    words = ["export", str(ddim), str(tmp_path / "out"), "--push-to-hub", "me/model", "--private", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["url"] == "https://hub/me/model"
    assert done == [("me/model", True), ("me/model", ["README.md", "model_index.json", "scheduler", "unet"])]


def test_hub_that_cannot_be_reached_is_told_in_one_line(
    ddim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("immiscible.runs.export.say", lambda message: None)
    said = told(capsys, ["export", str(ddim), str(tmp_path / "out"), "--push-to-hub", "me/model"])
    assert "--push-to-hub needs a reachable hub" in said
    assert (tmp_path / "out/model_index.json").exists()


def test_text_of_users_cannot_break_out_of_the_card() -> None:
    assert code("a`b``c") == "``` a`b``c ```"
    assert plain("<script> [x](y) *z*") == r"\<script\> \[x\]\(y\) \*z\*"
