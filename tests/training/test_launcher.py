"""What a launcher asks for is what the run does, or is refused before any work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from immiscible.cli import main
from immiscible.config.recipes import FlowConfig
from immiscible.errors import InputError
from immiscible.training.launcher import check_launcher, launch_line, make_accelerator, processes_on

CPU = torch.device("cpu")


def flow(**values: Any) -> FlowConfig:
    return FlowConfig(out=Path("run"), **{"batch_size": 64, "device": "cpu", **values})


# What `accelerate launch` sets for its own defaults, which ask for nothing.
DEFAULTS = {
    "ACCELERATE_USE_CPU": "False",
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
}


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        (
            "ACCELERATE_MIXED_PRECISION",
            "bf16",
            "got --mixed_precision bf16 where .*give the run --mixed-precision bf16",
        ),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "got --mixed_precision fp8 where .*take bf16"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "got --gradient_accumulation_steps 4 where .*--accumulation 4"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "got --dynamo_backend inductor where .*leave it out"),
        ("ACCELERATE_USE_FSDP", "true", "got --use_fsdp true where .*--sharding fsdp"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "got --use_deepspeed true"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "got --use_megatron_lm true"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "got --use_parallelism_config true"),
        ("ACCELERATE_DOWNCAST_BF16", "true", "got --downcast_bf16 true"),
        ("ACCELERATE_TORCH_DEVICE", "cuda:1", "got ACCELERATE_TORCH_DEVICE cuda:1 where .*--device cpu"),
        ("FSDP_OFFLOAD_PARAMS", "true", "got --fsdp_offload_params true"),
    ],
)
def test_what_the_run_does_not_do_is_refused(
    variable: str, value: str, remedy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    with pytest.raises(InputError, match=remedy):
        check_launcher(flow(), {**DEFAULTS, variable: value})
    monkeypatch.setenv(variable, value)
    assert main(["train", "flow", "--data", "nowhere", "--device", "cpu", "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the launcher must ask for what the run does" in line
    assert not (tmp_path / "run").exists()


def test_what_the_run_does_anyway_may_be_asked_for() -> None:
    check_launcher(flow(), {})
    check_launcher(flow(), DEFAULTS)
    check_launcher(flow(mixed_precision="bf16"), DEFAULTS)
    check_launcher(flow(mixed_precision="bf16"), {**DEFAULTS, "ACCELERATE_MIXED_PRECISION": "bf16"})
    check_launcher(flow(accumulation=4), {**DEFAULTS, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"})
    check_launcher(flow(sharding="fsdp"), {**DEFAULTS, "ACCELERATE_USE_FSDP": "true"})
    check_launcher(flow(), {**DEFAULTS, "ACCELERATE_USE_CPU": "true"})


def test_cpu_of_the_launcher_is_not_the_gpu_of_the_run() -> None:
    with pytest.raises(InputError, match="got --cpu true where it does --device cuda"):
        check_launcher(flow(device="cuda"), {"ACCELERATE_USE_CPU": "true"})


def test_steps_that_the_launcher_accumulates_too_are_accumulated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    accelerator = make_accelerator(flow(accumulation=4))
    assert accelerator.gradient_accumulation_steps == 1
    assert accelerator.state.dynamo_plugin.backend.value == "NO"


def test_processes_that_would_train_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    make_accelerator(flow())
    monkeypatch.setattr("immiscible.training.launcher._started", lambda environment: 2)
    for make in (lambda: make_accelerator(flow()), lambda: processes_on("auto")):
        with pytest.raises(InputError, match="launcher's 2 processes must find each other, got 1 in a group"):
            make()


def test_what_was_asked_for_and_given_is_told() -> None:
    alone = launch_line(flow(), 1, CPU, {})
    assert alone == "1 process on cpu, precision no, 1 micro-batch a step; no launcher asked for anything."
    asked = {"WORLD_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2"}
    given = launch_line(flow(mixed_precision="bf16", accumulation=2), 2, CPU, asked)
    assert given.startswith("2 processes on cpu, precision bf16, 2 micro-batches a step; the launcher asked for ")
    assert given.endswith("processes 2, precision bf16, accumulation 2.")


@pytest.mark.slow
def test_processes_of_a_machine_without_a_gpu_find_each_other(torchrun: Any, tmp_path: Path) -> None:
    """accelerate alone forms no group on a CPU that it is not told of: each process would train the run by itself."""
    words = "train flow --data digits --width 16 --depth 1 --steps 2 --batch-size 32 --no-tensorboard".split()
    done = torchrun([*words, "--out", str(tmp_path / "run")])
    assert done.returncode == 0, done.stderr
    assert "2 processes on " in done.stderr
    assert done.stdout.count("2 steps, ") == 1


@pytest.mark.slow
def test_run_of_accelerate_launch_is_the_one_without(torchrun: Any, tmp_path: Path) -> None:
    import subprocess

    words = "train flow --data digits --width 16 --depth 1 --steps 2 --batch-size 32 --accumulation 2 --no-tensorboard"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    asked = ["--gradient_accumulation_steps", "2", "--mixed_precision", "no", "-m", "immiscible.cli"]
    # Sums of floats depend on the number of threads, which the launcher chooses unless it is given.
    environment = {**torchrun.environment, "OMP_NUM_THREADS": "1"}

    def run(program: list[str], name: str) -> str:
        command = [*program, *words.split(), "--device", "cpu", "--out", str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "the launcher asked for" in run([*launcher, *asked], "launched")
    run([sys.executable, "-m", "immiscible.cli"], "plain")
    one, other = (tmp_path / name / "checkpoints/step-2/model.safetensors" for name in ("launched", "plain"))
    assert one.read_bytes() == other.read_bytes()
