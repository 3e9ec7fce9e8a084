"""Several processes train one run, and draw one set of images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ALONE = [sys.executable, "-m", "immiscible.cli"]
pytestmark = pytest.mark.slow


def environment(tmp_path: Path) -> dict[str, str]:
    # As many as torchrun's processes have, since sums depend on their number.
    return {**os.environ, "OMP_NUM_THREADS": "1", "IMMISCIBLE_CACHE": str(tmp_path / "cache")}


def train_flags(tiny: Path, out: Path, *extra: str) -> list[str]:
    flags = (
        "train stable-diffusion --mode scratch --data digits --coupling knn:64 --steps 6 --batch-size 16 "
        "--checkpoint-every 2 --log-every 1 --no-tensorboard --device cpu --cache-latents"
    )
    return [*flags.split(), "--model", str(tiny), "--out", str(out), *extra]


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_train_one_run_and_share_the_encoding(
    torchrun: Any, tiny: Path, tmp_path: Path, sharding: str
) -> None:
    out = tmp_path / "run"
    done = torchrun(train_flags(tiny, out, "--sharding", sharding))
    assert done.returncode == 0, done.stderr
    assert (out / "pipeline" / "model_index.json").exists()
    assert "8 paired at once" in done.stderr
    assert done.stdout.count("6 steps, ") == 1
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    assert len(list(tmp_path.glob("cache/latents/*/shard-*.safetensors"))) == 2


@pytest.mark.parametrize("mode", ["lora", "finetune"])
def test_sharded_run_goes_on_in_the_same_weights(torchrun: Any, tiny: Path, tmp_path: Path, mode: str) -> None:
    """Frozen weights are sharded with those that are trained, and only these are written."""
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    extra = ["--sharding", "fsdp", "--mode", mode, "--no-pipeline", "--gradient-checkpointing"]
    for out, steps in ((whole, ["--steps", "6"]), (parted, ["--steps", "4"]), (parted, ["--steps", "6", "--extend"])):
        done = torchrun(train_flags(tiny, out, *extra, *steps))
        assert done.returncode == 0, done.stderr
    for name in ("model", "ema", "optimizer"):
        ours, theirs = (load_file(run / "checkpoints/step-6" / f"{name}.safetensors") for run in (whole, parted))
        assert name == "optimizer" or all(("lora" in key) == (mode == "lora") for key in ours)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_two_processes_draw_what_one_draws(torchrun: Any, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    words = ["sample", str(tiny), "--num", "11", "--steps", "2", "--batch-size", "3", "--device", "cpu"]
    words += ["--prompts", str(tmp_path / "prompts.txt"), "--out"]
    line = [*ALONE, *words, str(tmp_path / "one")]
    alone = subprocess.run(line, env=environment(tmp_path), capture_output=True, text=True, timeout=240)
    for done in (alone, torchrun([*words, str(tmp_path / "two")])):
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("11 images, 2 steps of ddim") == 1
    first, second = (sorted((tmp_path / out).rglob("*.*")) for out in ("one", "two"))
    assert [path.name for path in first] == [path.name for path in second]
    assert len(first) == 11 + 2
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(first, second, strict=True))


def test_killed_run_ends_in_the_same_weights(tiny: Path, tmp_path: Path) -> None:
    settings = environment(tmp_path)
    flags = ["--steps", "30", "--checkpoint-every", "5", "--mode", "lora", "--no-pipeline"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*ALONE, *train_flags(tiny, whole, *flags)], env=settings, check=True, capture_output=True)
    process = subprocess.Popen([*ALONE, *train_flags(tiny, killed, *flags)], env=settings, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(killed.glob("checkpoints/step-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run([*ALONE, *train_flags(tiny, killed, *flags)], env=settings, check=True, capture_output=True)
    for name in ("model", "ema", "optimizer"):
        ours, theirs = (load_file(run / "checkpoints/step-30" / f"{name}.safetensors") for run in (whole, killed))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
