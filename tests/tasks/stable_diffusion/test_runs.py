"""Runs from the first step to what others load: resume, export, samples, paintings, scores."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from immiscible.cli import main
from immiscible.config.recipes import StableDiffusionConfig, TinyPipeline
from immiscible.data import Images
from immiscible.errors import InputError
from immiscible.runs.export import export
from immiscible.runs.open import load_run
from immiscible.runs.train import train
from immiscible.samplers import PipelineSampler
from immiscible.tasks.stable_diffusion.inpaint import Painting, inpaint, read_mask
from immiscible.tasks.stable_diffusion.quiet import quiet
from immiscible.tasks.stable_diffusion.tiny import make_tiny

Configure = Callable[..., StableDiffusionConfig]


@pytest.fixture
def run(configure: Configure) -> Path:
    config = configure(mode="finetune", data_scale=1.5)
    train(config, verbose=False)
    return config.out


@pytest.mark.slow
def test_interrupted_run_on_a_stream_ends_in_the_same_weights(
    shards: Any, configure: Configure, tmp_path: Path
) -> None:
    config = configure(data=shards.write_shards(tmp_path / "data", 9, 14), flip=True, accumulation=2)
    train(config, verbose=False)
    assert (config.out / "prompts.txt").read_text().count("number ") == 23
    parted = dataclasses.replace(config, out=tmp_path / "parted")
    train(parted, verbose=False)
    shutil.rmtree(parted.out / "checkpoints" / "step-4")
    train(parted, verbose=False)
    ours, theirs = (load_file(path / "checkpoints/step-4/model.safetensors") for path in (config.out, parted.out))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_latents_of_a_stream_are_not_cached(shards: Any, configure: Configure, tmp_path: Path) -> None:
    config = configure(data=shards.write_shards(tmp_path / "data", 9), cache_latents=True)
    with pytest.raises(InputError, match="--cache-latents must be left out for a stream"):
        train(config, verbose=False)


def pictures(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            found[str(path.relative_to(folder))] = np.array(image)
    return found


@pytest.mark.parametrize("mode", [pytest.param("scratch", marks=pytest.mark.slow), "finetune", "lora"])
def test_interrupted_run_ends_in_the_same_weights(configure: Configure, tmp_path: Path, mode: Any) -> None:
    config = configure(mode=mode, cache_latents=True, flip=True, noise_offset=0.1, gradient_checkpointing=True)
    train(config, verbose=False)
    parted = dataclasses.replace(config, out=tmp_path / "parted")
    train(parted, verbose=False)
    shutil.rmtree(parted.out / "checkpoints" / "step-4")
    train(parted, verbose=False)
    for name in ("model", "ema", "optimizer"):
        ours, theirs = (
            load_file(path / "checkpoints/step-4" / f"{name}.safetensors") for path in (config.out, parted.out)
        )
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_another_model_is_another_run(configure: Configure, broken: Path) -> None:
    train(configure(), verbose=False)
    (broken / "unet" / "extra.json").write_text("{}")
    with pytest.raises(InputError, match="model_fingerprint was"):
        train(configure(model=str(broken)), verbose=False)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "scheduler"])
def test_model_that_changed_after_training_is_not_used(
    configure: Configure, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    """Its VAE draws the run's images, and another one draws others."""
    config = configure(model=str(broken), steps=1)
    train(config, verbose=False)
    if part == "scheduler":
        path = broken / part / "scheduler_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "beta_end": 0.5}))
    else:
        path = next((broken / part).glob("*.safetensors"))
        weights = load_file(path)
        save_file({name: weight + 0.1 for name, weight in weights.items()}, path)
    run, grid = str(config.out), str(tmp_path / "grid.png")
    for words in (
        ["sample", run, "--num", "1", "--out", grid],
        ["export", run, str(tmp_path / "exported")],
        ["inpaint", run, "--images", "digits", "--num", "1", "--out", grid],
        ["evaluate", run, "--num", "4"],
    ):
        capsys.readouterr()
        assert main(words) == 2, words
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{broken} must be the pipeline that {config.out} was trained on, got one with other weights" in line


def test_run_finds_its_model_from_another_directory(
    configure: Configure, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    config = configure(model=tiny.name, steps=1)
    train(config, verbose=False)
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(config.out), "--num", "1", "--steps", "1", "--out", str(tmp_path / "grid.png")]) == 0
    assert main(["export", str(config.out), str(tmp_path / "exported")]) == 0
    # A card that is published tells nobody where its author's files are.
    assert str(tiny.parent) not in (tmp_path / "exported/README.md").read_text()


def test_stock_pipeline_loads_the_export_and_draws_the_same(run: Path, tmp_path: Path) -> None:
    trained = load_run(run)
    assert export(trained, tmp_path / "out") == "StableDiffusionPipeline"
    with quiet():
        from diffusers import StableDiffusionPipeline

        stock: Any = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    stock.set_progress_bar_config(disable=True)
    start = trained.start(3, 0)
    sampler = PipelineSampler("ddim", 4)
    stock.scheduler = sampler.scheduler(dict(stock.scheduler.config))
    with quiet():
        drawn = stock(
            trained.prompts(3), latents=start.noise, num_inference_steps=4, guidance_scale=3.0, output_type="pt"
        ).images
    ours = trained.sample(start, sampler, 3.0).images
    torch.testing.assert_close(drawn * 2 - 1, ours, rtol=0, atol=1e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: text-to-image" in card
    assert "`knn:8`" in card
    assert "immiscible train stable-diffusion" in card


def test_lora_is_loaded_by_the_stock_pipeline(configure: Configure, tmp_path: Path, tiny: Path) -> None:
    config = configure(mode="lora", lora_rank=2, learning_rate=0.05, ema=0.0)
    train(config, verbose=False)
    trained = load_run(config.out)
    assert export(trained, tmp_path / "lora") == "LoRA"
    assert (tmp_path / "lora" / "pytorch_lora_weights.safetensors").is_file()
    with quiet():
        from diffusers import StableDiffusionPipeline

        stock: Any = StableDiffusionPipeline.from_pretrained(tiny)
        plain = stock.unet.state_dict()["conv_in.weight"].clone()
        stock.load_lora_weights(tmp_path / "lora")
    torch.testing.assert_close(stock.unet.state_dict()["conv_in.weight"], plain)
    x, t, states = torch.randn(2, 4, 4, 4), torch.tensor([5, 900]), torch.randn(2, 24, 64)
    with torch.no_grad():
        torch.testing.assert_close(stock.unet(x, t, states).sample, trained.network(x, t, states).sample)
        stock.unet.disable_adapters()
        assert not torch.allclose(stock.unet(x, t, states).sample, trained.network(x, t, states).sample)


def test_samples_are_the_same_whatever_the_batches_and_interruptions(run: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\n\ntwo\nthree\n")
    words = ["sample", str(run), "--num", "7", "--steps", "3", "--prompts", str(tmp_path / "prompts.txt")]
    assert main([*words, "--out", str(tmp_path / "a"), "--batch-size", "7"]) == 0
    assert main([*words, "--out", str(tmp_path / "b"), "--batch-size", "3"]) == 0
    first, second = pictures(tmp_path / "a"), pictures(tmp_path / "b")
    assert first.keys() == second.keys()
    assert len(first) == 7
    # Sums in batches of other sizes may round differently.
    assert max(int(np.abs(first[name].astype(int) - second[name]).max()) for name in first) <= 1
    gone = tmp_path / "b" / "00000" / "00000004.png"
    gone.unlink()
    assert main([*words, "--out", str(tmp_path / "b"), "--batch-size", "3"]) == 0
    assert all(np.array_equal(image, second[name]) for name, image in pictures(tmp_path / "b").items())
    told = [json.loads(line) for line in (tmp_path / "b" / "metadata.jsonl").read_text().splitlines()]
    assert [line["text"] for line in told[:4]] == ["one", "two", "three", "one"]


def test_another_request_does_not_mix_with_what_is_there(run: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["sample", str(run), "--num", "2", "--steps", "2", "--out", str(tmp_path / "a")]
    assert main(words) == 0
    assert main([*words, "--seed", "1"]) == 2
    assert "differs in seed" in capsys.readouterr().err
    assert main([*words, "--seed", "1", "--overwrite"]) == 0
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "precious.txt").touch()
    assert main([*words, "--overwrite"]) == 2
    assert (tmp_path / "a" / "precious.txt").exists()


def test_samples_of_classes_as_shards(run: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("3\n8\n")
    words = ["sample", str(run), "--num", "3", "--steps", "2", "--classes", str(tmp_path / "classes.txt")]
    for scheduler in ("pndm", "dpm++", "euler"):
        out = tmp_path / scheduler
        assert main([*words, "--format", "npz", "--scheduler", scheduler, "--guidance", "2", "--out", str(out)]) == 0
        with np.load(out / "images-00000000-00000003.npz") as shard:
            assert shard["images"].shape == (3, 16, 16, 3)
            assert shard["prompts"].tolist() == ["3", "8", "3"]


def test_flags_of_text_to_image_need_such_a_run(tmp_path: Path, capsys: Any) -> None:
    assert main(["sample", str(tmp_path), "--prompts", "p.txt", "--out", str(tmp_path / "o")]) == 2
    assert "need a run of Stable Diffusion" in capsys.readouterr().err


def test_masks_hide_what_they_say() -> None:
    center, outer = read_mask("center", (16, 8)), read_mask("outer", (16, 8))
    assert center.sum() == 8 * 4
    assert center[0, 8, 4] == 1
    torch.testing.assert_close(center + outer, torch.ones(1, 16, 8))


def test_mask_from_a_file(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 0).save(tmp_path / "black.png")
    half = Image.new("L", (4, 4), 0)
    half.paste(255, (0, 0, 2, 4))
    half.save(tmp_path / "half.png")
    assert read_mask(str(tmp_path / "half.png"), (8, 8))[0, :, :4].all()
    assert not read_mask(str(tmp_path / "half.png"), (8, 8))[0, :, 4:].any()
    with pytest.raises(InputError, match="must hide something"):
        read_mask(str(tmp_path / "black.png"), (8, 8))
    with pytest.raises(InputError, match="--mask must be center, outer or a PNG"):
        read_mask(str(tmp_path / "none.png"), (8, 8))


def test_inpainting_keeps_what_is_known(run: Path, digits: Images) -> None:
    pipeline = load_run(run).task.pipeline()  # pyright: ignore
    x, mask = digits.batch([0, 1, 2])[0], read_mask("center", (16, 16))
    how = Painting(PipelineSampler("ddim", 3), 2.0)
    painted = inpaint(pipeline, x, ["0", "1", "2"], mask, how)
    known = ~mask.bool().expand_as(x)
    torch.testing.assert_close(painted[known], x[known], rtol=0, atol=0)
    assert (painted - x).abs().amax((1, 2, 3)).min() > 0.01
    again = inpaint(pipeline, x, ["0", "1", "2"], mask, dataclasses.replace(how, batch_size=2))
    torch.testing.assert_close(again, painted, rtol=0, atol=1e-4)
    assert not torch.equal(inpaint(pipeline, x, ["0", "1", "2"], mask, dataclasses.replace(how, seed=1)), painted)


def test_inpaint_command_takes_runs_and_pipelines(run: Path, tiny: Path, tmp_path: Path) -> None:
    for index, model in enumerate((run, tiny)):
        words = ["inpaint", str(model), "--images", "digits", "--mask", "outer", "--num", "3", "--steps", "2"]
        assert main([*words, "--out", str(tmp_path / f"{index}.png")]) == 0
        with Image.open(tmp_path / f"{index}.png") as grid:
            assert grid.size[0] > 9 * 16
        assert main([*words, "--out", str(tmp_path / f"{index}")]) == 0
        assert len(pictures(tmp_path / f"{index}")) == 3


def test_scores_of_samples_and_of_paintings(run: Path, capsys: Any) -> None:
    words = ["evaluate", str(run), "--num", "40", "--nfe", "2", "--features", "pixels", "--json"]
    scores = {}
    for task in ("generate", "inpaint", "outpaint"):
        assert main([*words, "--task", task]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row["task"] == task
        scores[task] = row["fid"]
    assert scores["inpaint"] < scores["outpaint"] < scores["generate"]


def test_training_command_writes_a_pipeline(configure: Configure, tiny: Path, tmp_path: Path) -> None:
    words = ["train", "stable-diffusion", "--model", str(tiny), "--data", "digits", "--steps", "1", "--batch-size", "4"]
    out = tmp_path / "run"
    assert main([*words, "--out", str(out), "--device", "cpu", "--no-tensorboard"]) == 0
    assert (out / "pipeline" / "model_index.json").is_file()
    assert (out / "prompts.txt").read_text().count("\n") == 1797
    assert main([*words, "--out", str(out), "--device", "cpu", "--no-tensorboard"]) == 0


@pytest.mark.slow
def test_tiny_pipeline_reports_its_reconstruction(tmp_path: Path, capsys: Any) -> None:
    words = ["make-tiny-sd", str(tmp_path / "sd"), "--data", "digits", "--image-size", "16", "--steps", "150"]
    assert main([*words, "--vae-width", "8", "--width", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 179
    assert told["explained"] > 0.05
    assert main(words) == 2
    with pytest.raises(InputError, match="multiple of 16"):
        make_tiny(TinyPipeline(out=tmp_path / "x", data="digits", image_size=20, steps=1))


@pytest.mark.slow
def test_comparison_of_couplings(configure: Configure, tiny: Path, tmp_path: Path) -> None:
    words = ["compare", "stable-diffusion", "--model", str(tiny), "--mode", "scratch", "--data", "digits"]
    words += [
        "--couplings",
        "independent,knn:64",
        "--seeds",
        "0",
        "--steps",
        "4",
        "--batch-size",
        "8",
        "--device",
        "cpu",
    ]
    words += [
        "--evaluations",
        "2",
        "--samples",
        "40",
        "--nfe",
        "2,3",
        "--features",
        "pixels",
        "--out",
        str(tmp_path / "c"),
    ]
    assert main(words) == 0
    summary = json.loads((tmp_path / "c" / "summary.json").read_text())
    assert list(summary["couplings"]) == ["independent", "knn:64"]
    assert (tmp_path / "c" / "report.html").is_file()
    weights = [
        load_file(tmp_path / "c/runs" / f"{name}-seed0" / "checkpoints/step-2/optimizer.safetensors")
        for name in ("independent", "knn-64")
    ]
    assert weights[0].keys() == weights[1].keys()


def test_bfloat16_accumulation_and_all_extras_train(configure: Configure) -> None:
    config = configure(
        mode="finetune",
        mixed_precision="bf16",
        accumulation=2,
        min_snr=5.0,
        noise_offset=0.1,
        input_perturbation=0.1,
        schedule_shift=0.5,
        prediction="v",
        coupling="assignment",
        within_classes=True,
    )
    summary = train(config, verbose=False)
    assert 0 < summary["loss"] < 10
    task: Any = load_run(config.out).task
    assert task.pipeline().scheduler.config["prediction_type"] == "v_prediction"
    assert task.pipeline().scheduler.config["trained_betas"] is not None


def test_eight_bit_adam_needs_its_library(configure: Configure) -> None:
    with pytest.raises(InputError, match="--optimizer adamw8bit needs bitsandbytes"):
        train(configure(optimizer="adamw8bit"), verbose=False)


def test_grey_images_become_colour_and_the_size_is_the_models(configure: Configure) -> None:
    config = configure(steps=1)
    train(config, verbose=False)
    saved = json.loads((config.out / "config.json").read_text())
    assert saved["data_shape"] == [3, 16, 16]
