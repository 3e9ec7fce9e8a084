"""What the loop leaves on disk, what it goes on from, and what it waits for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from immiscible.cli import main
from immiscible.config.recipes import FlowConfig
from immiscible.couplings import Independent
from immiscible.couplings.distributed.ranks import Ranks
from immiscible.data import load
from immiscible.runs.open import load_run
from immiscible.tasks.flow import FlowTask
from immiscible.tasks.registry import make_task
from immiscible.training import rendezvous
from immiscible.training.checkpoint import load_checkpoint
from immiscible.training.launcher import make_accelerator
from immiscible.training.loop import Loop
from immiscible.training.metrics import TIMES, read_metrics
from immiscible.training.state import State

FLAGS = (
    "train flow --data digits --coupling independent --steps 6 --batch-size 16 --width 8 --depth 1 "
    "--checkpoint-every 2 --keep-checkpoints 0 --log-every 2 --no-tensorboard --device cpu --warmup 2 --out"
).split()


def flags(out: Path, *extra: str) -> list[str]:
    return [*FLAGS, str(out), *extra]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("loop") / "whole"
    assert main(flags(out)) == 0
    return out


def loop_on(out: Path, scaler: torch.amp.GradScaler | None = None, **values: Any) -> Loop:
    """A loop that a test drives itself."""
    settings: dict[str, Any] = {"data": "digits", "steps": 6, "batch_size": 16, "width": 8, "depth": 1, "device": "cpu"}
    settings |= {"checkpoint_every": 2, "log_every": 2, "tensorboard": False, "clip": 0.0, "network": "mlp"}
    config = FlowConfig(out=out, **{**settings, **values})
    accelerator = make_accelerator(config)
    accelerator.scaler = scaler
    data = load("digits")
    task = make_task(config, data)
    return Loop(config, task, task.source(data, accelerator.device), Independent(), accelerator)


def files(run: Path) -> dict[str, bytes]:
    """All that a run left, but for what tells times."""
    found = {str(path.relative_to(run)): path for path in run.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(("metrics", "summary"))}


def without_times(run: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    summary = json.loads((run / "summary.json").read_text())
    lines = [{key: value for key, value in line.items() if key not in TIMES} for line in read_metrics(run)]
    return lines, {key: value for key, value in summary.items() if key not in TIMES}


class Killed(BaseException):
    """What a kill is taken for here: nothing handles it."""


@pytest.mark.parametrize("step", [2, 4, 6])
def test_picture_of_a_checkpoint_is_drawn_after_a_kill_between_the_two(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    def killed(self: Loop) -> None:
        if self.step == step:
            raise Killed
        preview(self)

    preview, run = Loop._preview, tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_preview", killed)
        with pytest.raises(Killed):
            main(flags(run))
    assert (run / f"checkpoints/step-{step}").exists()
    assert not (run / f"samples/step-{step}.png").exists()
    assert main(flags(run)) == 0
    assert files(run) == files(whole)
    assert without_times(run) == without_times(whole)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_metrics_and_summary_of_a_stopped_run_are_those_of_one_that_was_not(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Also where it is stopped between two lines: the sum of the losses goes on."""

    def stopping(self: Loop, stop: Any) -> int:
        return 15 if self.step == step else 0

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_stop_requested", stopping)
        assert main(flags(run)) == 143
    assert main(flags(run)) == 0
    assert without_times(run) == without_times(whole)


DIVERGING = ["--learning-rate", "1e30", "--clip", "0", "--warmup", "0"]


def fault(self: Any, micro: int) -> None:
    raise KeyError("a fault")


def test_start_that_diverges_leaves_nothing_and_may_be_changed(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(flags(run, *DIVERGING)) == 1
    assert not run.exists() or not list(run.iterdir())
    assert main(flags(run)) == 0
    assert files(run) == files(whole)


def test_start_that_fails_in_its_first_step_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(Loop, "_backward", fault)
    with pytest.raises(KeyError):
        main(flags(run))
    assert not run.exists() or not list(run.iterdir())


def test_run_that_ended_before_its_first_checkpoint_may_be_changed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it drew and wrote on its way is not left among what the other one does."""
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(State, "save", lambda self: fault(self, 0))
        with pytest.raises(KeyError):
            main(flags(run, "--seed", "3", "--log-every", "1", "--sample-every", "1", "--cost-space", "pca:4"))
    assert (run / "samples/step-1.png").exists()
    assert (run / "config.json").exists()
    assert main(flags(run)) == 0
    left = files(run)
    left.pop("cost-space.safetensors", None)
    assert left == {name: data for name, data in files(whole).items() if name != "cost-space.safetensors"}
    assert without_times(run) == without_times(whole)


def test_scale_of_the_loss_is_resumed(tmp_path: Path) -> None:
    """fp16's scale grows every few steps, and halves where a gradient overflows."""

    def scaler() -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)

    one = loop_on(tmp_path / "one", scaler())
    one.run(verbose=False)
    other = loop_on(tmp_path / "other", scaler(), steps=2)
    other.run(verbose=False)
    resumed = loop_on(tmp_path / "other", scaler())
    resumed.run(verbose=False)
    assert one.accelerator.scaler.state_dict() == resumed.accelerator.scaler.state_dict()
    assert one.accelerator.scaler.get_scale() == 32.0
    ours, theirs = (load_checkpoint(tmp_path / name / "checkpoints/step-6") for name in ("one", "other"))
    assert ours.loop == theirs.loop
    torch.testing.assert_close(theirs.model, ours.model, rtol=0, atol=0)


def test_checkpoint_without_a_scale_still_resumes(tmp_path: Path) -> None:
    loop_on(tmp_path, steps=2).run(verbose=False)
    path = tmp_path / "checkpoints/step-2/state.json"
    state = json.loads(path.read_text())
    assert "scaler" not in state["loop"]
    # As earlier versions wrote it.
    del state["loop"]["loss_sums"]
    path.write_text(json.dumps(state))
    resumed = loop_on(tmp_path, torch.amp.GradScaler("cpu", init_scale=8.0))
    resumed.run(verbose=False)
    assert resumed.step == 6


@pytest.mark.parametrize("inner", [False, True])
def test_names_of_a_compiled_network_are_those_of_the_network(tmp_path: Path, inner: bool) -> None:
    def compiled(task: FlowTask) -> FlowTask:
        import dataclasses

        if not inner:
            return dataclasses.replace(task, network=torch.compile(task.network, backend="eager"))
        for name, module in list(task.network.named_children()):
            if not isinstance(module, nn.ModuleList):
                setattr(task.network, name, torch.compile(module, backend="eager"))
        return task

    loop_on(tmp_path / "plain", steps=2).run(verbose=False)
    config = loop_on(tmp_path / "compiled", steps=2).config
    data, accelerator = load("digits"), make_accelerator(config)
    task = compiled(make_task(config, data))  # pyright: ignore[reportArgumentType]
    assert any("_orig_mod." in name for name, _ in task.network.named_parameters())
    loop = Loop(config, task, task.source(data, accelerator.device), Independent(), accelerator)
    loop.state.save()
    names = {}
    for name, step in (("plain", 2), ("compiled", 0)):
        for file in ("model", "ema"):
            names[name, file] = load_file(tmp_path / name / f"checkpoints/step-{step}/{file}.safetensors").keys()
    assert names["plain", "model"] == names["compiled", "model"] == names["compiled", "ema"]
    loop.state.resume()


def test_run_whose_names_were_those_of_a_compiled_network_opens(whole: Path, tmp_path: Path) -> None:
    from immiscible.training.checkpoint import save_checkpoint

    run = Path(shutil.copytree(whole, tmp_path / "run"))
    found = load_checkpoint(run / "checkpoints/step-6")
    shutil.rmtree(run / "checkpoints/step-6")
    for weights in (found.model, found.ema):
        for name in list(weights):
            weights[f"_orig_mod.{name}"] = weights.pop(name)  # pyright: ignore
    save_checkpoint(run / "checkpoints", found)
    torch.testing.assert_close(load_run(run).network.state_dict(), load_run(whole).network.state_dict(), rtol=0, atol=0)
    assert main(flags(run, "--steps", "8", "--extend")) == 0


@pytest.mark.parametrize(("backend", "groups"), [("cpu:gloo,cuda:nccl", []), ("cuda:nccl", ["gloo"]), ("cpu:gloo", [])])
def test_processes_tell_each_other_of_signals_on_the_cpu(
    backend: str, groups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read a tensor from a GPU each step would wait for all that is queued there."""
    made: list[str] = []
    monkeypatch.setattr(rendezvous.Ranks, "of", lambda: Ranks(None, 1, 2))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
    monkeypatch.setattr(rendezvous.dist, "get_backend_config", lambda group: backend)
    monkeypatch.setattr(rendezvous.dist, "new_group", lambda backend: made.append(backend) or "own")
    ranks = rendezvous.ranks_on_cpu()
    assert made == groups
    assert ranks == Ranks("own" if groups else None, 1, 2)


def nan_weights(run: Path, step: int = 6) -> None:
    from immiscible.training.checkpoint import save_checkpoint

    found = load_checkpoint(run / f"checkpoints/step-{step}")
    next(iter(found.ema.values()))[0] = float("nan")
    shutil.rmtree(run / f"checkpoints/step-{step}")
    save_checkpoint(run / "checkpoints", found)


@pytest.mark.parametrize("command", ["sample", "evaluate", "export"])
def test_weights_that_are_not_finite_are_one_line(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    nan_weights(run)
    words = {"sample": ["--out", str(tmp_path / "grid.png")], "evaluate": [], "export": [str(tmp_path / "out")]}
    assert main([command, str(run), *words[command]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "must hold finite weights, got NaN or infinite values in 1 of " in line
    assert "at step 6" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert main(["sample", str(run), "--step", "4", "--num", "4", "--out", str(tmp_path / "grid.png")]) == 0


def test_samples_that_are_not_finite_are_counted(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*arguments: Any) -> Any:
        task = builder(*arguments)
        task.network.register_forward_hook(lambda module, given, out: out.index_fill(0, torch.tensor([1]), torch.inf))
        return task

    builder = FlowTask.build
    monkeypatch.setattr(FlowTask, "build", staticmethod(build))
    assert main(["sample", str(whole), "--num", "4", "--out", str(tmp_path / "grid.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "generated images must be finite, got 1 of 4 with NaN or infinite values" in line
    assert not list(tmp_path.iterdir())


def test_preview_that_is_not_finite_is_told_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("immiscible.tasks.flow.preview", lambda task, *rest: nan_preview(task, *rest))
    assert main(flags(tmp_path / "run")) == 0
    said = capsys.readouterr().err
    assert "warning: step 2 has no picture: generated images must be finite" in said
    assert not (tmp_path / "run/samples").exists()


def nan_preview(task: Any, *rest: Any) -> torch.Tensor:
    from immiscible.samplers.base import check_finite

    return check_finite(torch.full((2, 1, 8, 8), torch.nan))
