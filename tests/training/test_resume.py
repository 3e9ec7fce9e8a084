"""A run ends in the same weights, bit for bit, wherever it was interrupted."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

FLAGS = (
    "--data digits --steps 60 --batch-size 32 --width 32 --depth 1 --checkpoint-every 10 --log-every 7 "
    "--sample-every 60 --no-tensorboard --device cpu --warmup 5"
).split()
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(out: Path, *extra: str) -> list[str]:
    return [sys.executable, "-m", "immiscible.cli", "train", "flow", *FLAGS, "--out", str(out), *extra]


def train(out: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(out, *extra), env=ENVIRONMENT, capture_output=True, text=True, check=False)


def assert_same_end(run: Path, other: Path) -> None:
    for name in ("model", "ema", "optimizer"):
        ours, theirs = (load_file(path / "checkpoints/step-60" / f"{name}.safetensors") for path in (run, other))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    losses = [
        [line.split(",")[:2] for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (run, other)
    ]
    assert losses[0] == losses[1]


@pytest.fixture(scope="module", params=["assignment@0.5", "knn:4"])
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("run") / "undisturbed"
    result = train(out, "--coupling", request.param)
    assert result.returncode == 0, result.stderr
    return out, request.param


def kill_after(process: subprocess.Popen[str], run: Path, number: int) -> None:
    """Waits for the first checkpoint and a random moment more, then kills."""
    deadline = time.monotonic() + 60
    while not any(run.glob("checkpoints/step-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(random.Random(number).uniform(0, 0.3))
    process.send_signal(number)


def test_killed_run_ends_in_the_same_weights(undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    reference, coupling = undisturbed
    run = tmp_path / "run"
    process = subprocess.Popen(command(run, "--coupling", coupling), env=ENVIRONMENT, stderr=subprocess.DEVNULL, text=True)
    kill_after(process, run, signal.SIGKILL)
    process.wait()
    result = train(run, "--coupling", coupling)
    assert result.returncode == 0, result.stderr
    assert_same_end(run, reference)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_checkpoints_at_the_end_of_the_step(
    undisturbed: tuple[Path, str], tmp_path: Path, number: int, status: int
) -> None:
    reference, coupling = undisturbed
    run = tmp_path / "run"
    arguments = command(run, "--coupling", coupling, "--steps", "5000", "--checkpoint-every", "10")
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    kill_after(process, run, number)
    _, errors = process.communicate()
    assert process.returncode == status, errors
    assert "the same command resumes there" in errors.splitlines()[-1]
    stopped_at = int(errors.splitlines()[-1].split("step ")[1].split(":")[0])
    assert (run / "checkpoints" / f"step-{stopped_at}" / "model.safetensors").exists()


def test_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(
    undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    reference, coupling = undisturbed
    run = tmp_path / "run"
    assert train(run, "--coupling", coupling, "--checkpoint-every", "20").returncode == 0
    newest = run / "checkpoints/step-60/model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"\x01")
    result = train(run, "--coupling", coupling, "--checkpoint-every", "20")
    assert result.returncode == 0, result.stderr
    assert "damaged checkpoint" in result.stderr
    assert "step-60" in result.stderr
    assert (run / "checkpoints/step-60.damaged-1/model.safetensors").exists()
    assert_same_end(run, reference)


def test_other_configuration_is_refused_and_names_the_keys(undisturbed: tuple[Path, str]) -> None:
    run, coupling = undisturbed
    before = sorted(path.name for path in run.rglob("*"))
    result = train(run, "--coupling", coupling, "--seed", "5", "--batch-size", "16")
    assert result.returncode == 2
    assert "batch_size was 32, is 16, seed was 0, is 5" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(path.name for path in run.rglob("*")) == before
    assert "--extend" in train(run, "--coupling", coupling, "--steps", "80").stderr


def test_extended_run_equals_one_that_was_longer_from_the_start(tmp_path: Path) -> None:
    run, longer = tmp_path / "run", tmp_path / "longer"
    assert train(run, "--steps", "40").returncode == 0
    assert train(run, "--extend").returncode == 0
    assert train(longer).returncode == 0
    assert_same_end_but_for_metrics(run, longer)


def assert_same_end_but_for_metrics(run: Path, other: Path) -> None:
    ours, theirs = (load_file(path / "checkpoints/step-60/model.safetensors") for path in (run, other))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train(run, "--learning-rate", "1e30", "--clip", "0", "--warmup", "0", "--checkpoint-every", "1")
    assert result.returncode == 1
    assert "not finite" in result.stderr or "the loss is" in result.stderr
    assert "Traceback" not in result.stderr
    for file in run.glob("checkpoints/step-*/model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values())
