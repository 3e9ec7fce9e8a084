"""A run ends in the same weights, bit for bit, wherever it was interrupted."""

from __future__ import annotations

import json
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

from immiscible.cli import main
from immiscible.training.checkpoint import Checkpoint, save_checkpoint

COUPLING = "assignment@0.5"
FLAGS = (
    "--data digits --steps 60 --batch-size 32 --width 32 --depth 1 --checkpoint-every 10 --log-every 7 "
    "--sample-every 60 --no-tensorboard --device cpu --warmup 5 --conditional --accumulation 2"
).split()


def flags(out: Path, *extra: str, task: str = "flow") -> list[str]:
    return ["train", task, *FLAGS, "--coupling", COUPLING, "--out", str(out), *extra]


def start(out: Path, *extra: str, task: str = "flow") -> subprocess.Popen[str]:
    """Trains in a process of its own, on as many threads as this one, since sums depend on their number."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    words = [sys.executable, "-m", "immiscible.cli", *flags(out, *extra, task=task)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end_by(number: int, process: subprocess.Popen[str], run: Path, moment: float) -> str:
    """Waits for the first checkpoint and a moment more, sends a signal, and returns what was said."""
    deadline = time.monotonic() + 120
    while not any(run.glob("checkpoints/step-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(moment)
    process.send_signal(number)
    return process.communicate()[1]


def losses(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def assert_same_end(run: Path, other: Path) -> None:
    for name in ("model", "ema", "optimizer"):
        ours, theirs = (load_file(path / "checkpoints/step-60" / f"{name}.safetensors") for path in (run, other))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert losses(run) == losses(other)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "undisturbed"
    assert main(flags(out)) == 0
    return out


def kill_and_resume(run: Path, moments: list[float], *extra: str, task: str = "flow") -> None:
    for moment in moments:
        end_by(signal.SIGKILL, start(run, *extra, task=task), run, moment)
    assert main(flags(run, *extra, task=task)) == 0


def test_killed_run_ends_in_the_same_weights(undisturbed: Path, tmp_path: Path) -> None:
    kill_and_resume(tmp_path / "run", [0.03])
    assert_same_end(tmp_path / "run", undisturbed)


@pytest.mark.parametrize(
    ("task", "extra"),
    [
        pytest.param(
            "ddim",
            "--prediction v --min-snr 5 --cost-space pca:8 --coupling-start 12 --coupling-stop 47",
            marks=pytest.mark.slow,
        ),
        pytest.param("flow", "--coupling cells:8:4@0.75 --flip", marks=pytest.mark.slow),
        ("flow", "--coupling reservoir:40@0.75 --cost-space pca:8 --coupling-start 5"),
        pytest.param(
            "consistency", "--levels 4 --most-levels 32 --data-scale 1.5 --flip --shift 1", marks=pytest.mark.slow
        ),
        pytest.param(
            "flow",
            "--network unet --width 8 --depth 2 --layers 1 --dropout 0.2 --cost-space pooled:4",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_task_ends_in_the_same_weights_after_a_kill(tmp_path: Path, task: str, extra: str) -> None:
    """With all that a step may draw: augmentation, dropout, noise levels, a coupling that starts and stops."""
    words = extra.split()
    assert main(flags(tmp_path / "whole", *words, task=task)) == 0
    kill_and_resume(tmp_path / "run", [0.03], *words, task=task)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_run_killed_twice_at_random_ends_in_the_same_weights(undisturbed: Path, tmp_path: Path, number: int) -> None:
    rng = random.Random(number)
    kill_and_resume(tmp_path / "run", [rng.uniform(0, 0.4), rng.uniform(0, 0.4)])
    assert_same_end(tmp_path / "run", undisturbed)


@pytest.mark.parametrize(
    ("number", "status"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_signal_checkpoints_at_the_end_of_the_step(tmp_path: Path, number: int, status: int) -> None:
    run = tmp_path / "run"
    process = start(run, "--steps", "100000")
    said = end_by(number, process, run, 0.05).splitlines()[-1]
    assert process.returncode == status, said
    stopped_at = int(said.split("stopped at step ")[1].split(":")[0])
    assert "the same command resumes there" in said
    assert (run / "checkpoints" / f"step-{stopped_at}" / "state.json").exists()


def test_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(flags(run, "--checkpoint-every", "20")) == 0
    newest = run / "checkpoints/step-60/model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"\x01")
    capsys.readouterr()
    assert main(flags(run, "--checkpoint-every", "20")) == 0
    said = capsys.readouterr().err
    assert "damaged checkpoint" in said
    assert "step-60" in said
    assert (run / "checkpoints/step-60.damaged-1/model.safetensors").exists()
    assert_same_end(run, undisturbed)


def test_damaged_checkpoint_does_not_push_out_good_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it still counted as the newest, the one that is written next would be removed at once."""
    run = tmp_path / "run"
    assert main(flags(run, "--keep-checkpoints", "2")) == 0
    (run / "checkpoints/step-60/state.json").write_text("{")
    written = []

    def save(directory: Path, state: Checkpoint, keep: int) -> None:
        path = save_checkpoint(directory, state, keep)
        written.append((path.name, path.exists()))

    monkeypatch.setattr("immiscible.training.state.save_checkpoint", save)
    assert main(flags(run, "--keep-checkpoints", "1", "--checkpoint-every", "5")) == 0
    assert written == [("step-55", True), ("step-60", True)]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-60", "step-60.damaged-1"]


def test_other_configuration_is_refused_and_names_the_keys(
    undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    assert main(flags(undisturbed, "--seed", "5", "--batch-size", "16")) == 2
    said = capsys.readouterr().err
    assert "batch_size was 32, is 16, seed was 0, is 5" in said
    assert len(said.strip().splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


def test_extended_run_equals_one_that_was_longer_from_the_start(
    undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(flags(run, "--steps", "42")) == 0
    assert main(flags(run)) == 2
    assert "--extend" in capsys.readouterr().err
    assert main(flags(run, "--extend")) == 0
    assert_same_end(run, undisturbed)


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(flags(run, "--learning-rate", "1e30", "--clip", "0", "--warmup", "0", "--checkpoint-every", "1")) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "finite" in said or "the loss is" in said
    kept = list(run.glob("checkpoints/step-*/model.safetensors"))
    for file in kept:
        assert all(tensor.isfinite().all() for tensor in load_file(file).values())
    assert ("the last good checkpoint is" in said) == bool(kept)


def test_global_randomness_does_not_change_a_run(undisturbed: Path, tmp_path: Path) -> None:
    torch.manual_seed(12345)
    assert main(flags(tmp_path / "run")) == 0
    assert_same_end(tmp_path / "run", undisturbed)
