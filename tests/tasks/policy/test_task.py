"""Policies are trained, resumed, opened and asked what to do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from immiscible.analysis.leak import leak
from immiscible.cli import main
from immiscible.config.recipes import PolicyConfig
from immiscible.errors import InputError
from immiscible.runs.cost_space import Ranking
from immiscible.runs.open import load_run
from immiscible.runs.resolve import resolve
from immiscible.samplers.policy import PlanSampler
from immiscible.tasks.policy.task import PolicyTask

SMALL = ["--width", "16", "--depth", "1", "--device", "cpu", "--no-tensorboard", "--batch-size", "32"]
SMALL += ["--coupling", "assignment"]


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Smooth episodes in which the agent heads for the block, from wherever it is, with a sway that nothing tells."""
    draws = np.random.default_rng(0)
    observations, actions, ends = [], [], []
    for _ in range(60):
        length = int(draws.integers(20, 40))
        agent, block, angle = draws.uniform(50, 450, 2), draws.uniform(150, 350, 2), draws.uniform(0, 2 * np.pi)
        phase = draws.uniform(0, 2 * np.pi)
        for step in range(length):
            observations.append([*agent, *block, angle])
            agent = agent + 0.15 * (block - agent)
            actions.append(agent + 40 * np.sin(0.3 * step + phase + np.array([0, 1])))
        ends.append(len(actions))
    path = tmp_path_factory.mktemp("episodes") / "episodes.npz"
    np.savez(path, observations=np.array(observations), actions=np.array(actions), episode_ends=ends, rate=10.0)
    return str(path)


def train(out: Path, *words: str, status: int = 0) -> None:
    assert main(["train", "policy", *SMALL, *words, "--out", str(out)]) == status


@pytest.mark.parametrize(
    "words", [[], ["--process", "flow", "--network", "unet", "--depth", "2"], ["--mirror", "--angles", "4"]], ids=str
)
def test_policy_is_trained_and_asked(
    episodes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    train(tmp_path / "run", "--data", episodes, "--steps", "4", *words)
    said = capsys.readouterr().err
    assert "a diffusion policy on episodes.npz (" in said
    assert "windows of 16x2)" in said
    assert "from 60 episodes of " in said or "from 120 episodes of " in said
    assert "the assignment ranks what the observation leaves open" in said
    assert "the noise law holds" in said
    assert "of the condition: R^2 = " in said
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["cost_space"], config["data_shape"]) == ("residual", [16, 2])
    assert not {"flip", "shift", "data_scale", "image_size", "split"} & config.keys()
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["leak"]["measure"] == "R^2"
    assert set(load_file(tmp_path / "run/cost-space.safetensors")) == {"mean", "weights", "centre", "scale"}
    assert (tmp_path / "run/samples/step-4.png").read_bytes().startswith(b"\x89PNG")
    run = load_run(tmp_path / "run")
    assert isinstance(run.task, PolicyTask)
    observations = torch.tensor([[100.0, 200, 300, 256, 1.0]]).expand(3, 2, 5) + torch.arange(3.0).view(3, 1, 1)
    act = run.task.act(run.network)
    plans = act(observations, [5, 6, 7])
    assert plans.shape == (3, 16, 2)
    # In the units of the demonstrations.
    assert 20 < float(plans.mean()) < 500
    assert float(plans.std()) > 20
    # A plan depends on its observation and its seed alone.
    torch.testing.assert_close(act(observations[2:], [7]), plans[2:], rtol=1e-4, atol=1e-2)
    assert not torch.allclose(act(observations[2:], [8]), plans[2:])
    drawn = act(observations[2:], [torch.Generator().manual_seed(1)])
    torch.testing.assert_close(drawn, act(observations[2:], [torch.Generator().manual_seed(1)]), rtol=0, atol=0)
    # And the demonstrations are found again.
    assert run.data().demonstrations.episodes == (120 if "--mirror" in words else 60)


@pytest.mark.parametrize("coupling", ["cells:4", "reservoir:64", "assignment:auto"])
def test_every_coupling_is_given_the_observation(
    episodes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], coupling: str
) -> None:
    train(tmp_path / "run", "--data", episodes, "--steps", "2", "--coupling", coupling)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["cost_space"] == "residual"
    assert abs(summary["leak"]["score"]) < 0.1
    if "auto" in coupling:
        assert "32 windows of 32 values" in capsys.readouterr().err


def test_plans_take_the_steps_that_are_asked_for(episodes: str, tmp_path: Path) -> None:
    train(tmp_path / "run", "--data", episodes, "--steps", "2", "--timesteps", "20", "--inference-steps", "5")
    run = load_run(tmp_path / "run")
    assert isinstance(run.task, PolicyTask)
    observed = torch.full((2, 2, 5), 200.0)
    calls: list[Tensor] = []
    run.network.register_forward_pre_hook(lambda _, given: calls.append(given[1]))
    own = run.task.act(run.network)(observed, [1, 2])
    assert len(calls) == 5
    torch.testing.assert_close(run.task.act(run.network, PlanSampler("ddim", 5))(observed, [1, 2]), own)
    calls.clear()
    run.task.act(run.network, PlanSampler("own", 100))(observed, [1, 2])
    assert len(calls) == 20
    # Times are of the order of one, from the noisiest on.
    assert float(calls[0].max()) == pytest.approx(0.95)
    assert float(calls[-1].max()) == 0
    for sampler, told in [
        (PlanSampler("euler", 5), "--sampler must be ddpm or ddim for a run of --process ddpm, got euler"),
        (PlanSampler("ddim", 21), "--nfe must be at most the 20 timesteps"),
    ]:
        with pytest.raises(InputError, match=told):
            run.task.act(run.network, sampler)(observed, [1, 2])
    with pytest.raises(InputError, match="observations must have shape \\(1, 2, 5\\), one for each of 1 seeds"):
        run.task.act(run.network)(observed, [1])


def test_interrupted_run_ends_in_the_same_weights(
    episodes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--data", episodes, "--lr-schedule", "cosine", "--warmup", "2", "--checkpoint-every", "3", "--steps", "8"]
    words += ["--log-every", "1"]
    train(tmp_path / "whole", *words)
    loss, steps = PolicyTask.loss, []

    def fails(self: PolicyTask, network: Any, batch: Any) -> Tensor:
        steps.append(batch.step)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return loss(self, network, batch)

    with monkeypatch.context() as patched:
        patched.setattr(PolicyTask, "loss", fails)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            raise SystemExit(main(["train", "policy", *SMALL, *words, "--out", str(tmp_path / "cut")]))
    assert (tmp_path / "cut/checkpoints/step-3").exists()
    assert not (tmp_path / "cut/summary.json").exists()
    train(tmp_path / "cut", *words)
    for name in ("model", "ema", "optimizer"):
        ends = [load_file(tmp_path / run / f"checkpoints/step-8/{name}.safetensors") for run in ("whole", "cut")]
        torch.testing.assert_close(*ends, rtol=0, atol=0)
    rates = [json.loads(line)["learning_rate"] for line in (tmp_path / "cut/metrics.jsonl").read_text().splitlines()]
    falling = [(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    torch.testing.assert_close(torch.tensor(rates), 3e-4 * torch.tensor([0.5, 1, *falling]))


@pytest.mark.slow
def test_two_processes_resume_exactly(episodes: str, tmp_path: Path, torchrun: Callable[..., Any]) -> None:
    words = ["train", "policy", *SMALL, "--data", episodes, "--pool", "128", "--checkpoint-every", "3"]
    for run, steps in (("whole", ["8"]), ("cut", ["3", "8"])):
        for last in steps:
            done = torchrun([*words, "--steps", last, "--extend", "--out", str(tmp_path / run)])
            assert done.returncode == 0, done.stderr
    ends = [load_file(tmp_path / run / "checkpoints/step-8/ema.safetensors") for run in ("whole", "cut")]
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_noise_tells_nothing_of_the_observation_by_default_and_much_in_another_space(
    episodes: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def ranking(**values: Any) -> Ranking:
        config = PolicyConfig(out=tmp_path / "run", data=episodes, **values)
        data = PolicyTask.load_data(config)
        return Ranking.fit(resolve(config, data), data)

    assert ranking().config.coupling == "independent"
    found = {name: ranking(coupling="assignment", cost_space=name).leak(256) for name in ("auto", "standardized")}
    assert found["auto"] is not None
    assert found["standardized"] is not None
    # Of residuals that vary more in some scenes than in others a little can be read, other than linearly.
    assert abs(found["auto"].score) < 0.05
    assert found["standardized"].score > 0.3
    for coupling, space in (("knn:2", "raw"), ("independent", "raw"), ("assignment@0.5", "residual")):
        assert ranking(coupling=coupling).config.cost_space == space
    train(tmp_path / "warned", "--data", episodes, "--steps", "1", "--cost-space", "standardized")
    said = capsys.readouterr().err
    assert "warning: noise that is assigned to actions in the space standardized tells the observation" in said
    assert "the noise tells of the condition: R^2 = 0." in said


def test_measured_leak_is_that_of_the_noise_that_training_pairs(episodes: str, tmp_path: Path) -> None:
    config = PolicyConfig(out=tmp_path / "run", data=episodes, cost_space="centered")
    data = PolicyTask.load_data(config)
    ranking = Ranking.fit(config, data)
    index = torch.arange(len(data))
    direct = leak(data.batch(index)[0], data.condition(index), ranking.coupling())
    found = ranking.leak(256)
    assert found is not None
    assert found.score == pytest.approx(direct.score, abs=0.05)


def test_schedule_that_ends_with_the_run_is_not_extended(
    episodes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", episodes, "--lr-schedule", "cosine"]
    train(tmp_path / "run", *words, "--steps", "2")
    train(tmp_path / "run", *words, "--steps", "4", "--extend", status=2)
    assert "--extend needs --lr-schedule constant, got cosine" in capsys.readouterr().err
    train(tmp_path / "run", *words, "--steps", "4", status=2)
    assert "give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--flip"], "unknown flag --flip"),
        (["--image-size", "8"], "unknown flag --image-size"),
        (["--process", "flow", "--timesteps", "50"], "--timesteps needs --process ddpm, got flow"),
        (["--data", "digits"], "demonstrations must be "),
    ],
)
def test_flags_of_images_are_none_of_policies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    train(tmp_path / "run", *words, status=2)
    assert told in capsys.readouterr().err


def test_what_draws_images_says_that_a_policy_draws_none(
    episodes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "run", "--data", episodes, "--steps", "1")
    for words in (
        ["sample", str(tmp_path / "run"), "--out", str(tmp_path / "grid.png"), "--device", "cpu"],
        ["analyze", "run", str(tmp_path / "run"), "--out", str(tmp_path / "page"), "--device", "cpu"],
        ["export", str(tmp_path / "run"), str(tmp_path / "exported")],
    ):
        capsys.readouterr()
        assert main(words) == 2, words
        told = capsys.readouterr().err
        assert told.count("\n") == 1, told
    (tmp_path / "run/policy.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="must hold how the run scales observations and actions"):
        load_run(tmp_path / "run")


def test_shape_in_the_configuration_has_the_axes_of_chunks(episodes: str, tmp_path: Path) -> None:
    train(tmp_path / "run", "--data", episodes, "--steps", "1")
    path = tmp_path / "run/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "data_shape": [3, 16, 2]}))
    with pytest.raises(InputError, match="must be two numbers, got 3"):
        load_run(tmp_path / "run")
