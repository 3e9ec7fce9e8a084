"""Paths from noise to data, as each system follows them: they end at its samples, and their parts fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from immiscible.config.recipes import ConsistencyConfig, DDIMConfig, FlowConfig
from immiscible.errors import InputError
from immiscible.processes import diffusion, noise_and_datum
from immiscible.samplers import DiffusionSampler, Multistep, Solver
from immiscible.tasks.base import Facts, ImageTask
from immiscible.tasks.consistency import ConsistencyTask
from immiscible.tasks.ddim import DiffusionTask
from immiscible.tasks.flow import FlowTask

SHAPE = (1, 3, 5)
COMMON: dict[str, Any] = {"out": Path("run"), "network": "mlp", "width": 16, "depth": 1}
SYSTEMS: list[Any] = [
    (FlowTask, FlowConfig(**COMMON, schedule_shift=2.0, data_scale=2.0), Solver("euler", 10), "smooth"),
    (DiffusionTask, DDIMConfig(**COMMON, prediction="eps"), DiffusionSampler("ddim", 10), "smooth"),
    (DiffusionTask, DDIMConfig(**COMMON, prediction="v", data_scale=2.0), DiffusionSampler("ddim", 10), "smooth"),
    (DiffusionTask, DDIMConfig(**COMMON, prediction="x0"), DiffusionSampler("ddim", 10), "smooth"),
    (ConsistencyTask, ConsistencyConfig(**COMMON), Multistep(10), "noisy"),
    (ConsistencyTask, ConsistencyConfig(**COMMON, data_scale=2.0, schedule_shift=2.0), Multistep(2), "noisy"),
]


def rough(task: Any) -> Any:
    """A task whose network gives something else at every point and time, which a fresh one need not."""
    draws = torch.Generator().manual_seed(0)
    for weight in task.network.parameters():
        weight.data += 0.2 * torch.randn(weight.shape, generator=draws)
    task.network.eval()
    return task


@pytest.mark.parametrize(("kind", "config", "sampler", "paths"), SYSTEMS)
def test_path_ends_at_the_sample(kind: Any, config: Any, sampler: Any, paths: str) -> None:
    task = rough(kind.build(config, Facts(SHAPE)))
    start = task.start(8, seed=0)
    steps = int(str(sampler))
    moments = list(task.trace(task.network, start, steps))
    assert len(moments) == steps
    assert task.paths == paths
    drawn = task.sample(task.network, start, sampler).images
    torch.testing.assert_close(task.decode(moments[-1].datum), drawn, rtol=1e-4, atol=1e-4)
    assert len({moment.datum.mean().item() for moment in moments}) == steps


@pytest.mark.parametrize(("kind", "config", "sampler", "paths"), SYSTEMS)
def test_point_is_made_of_the_noise_and_the_datum(kind: Any, config: Any, sampler: Any, paths: str) -> None:
    task = rough(kind.build(config, Facts(SHAPE)))
    moments = list(task.trace(task.network, task.start(8, seed=0), int(str(sampler))))
    times = [moment.time for moment in moments]
    assert times == sorted(times)
    assert all(0 <= time <= 1 for time in times)
    for moment in moments:
        # Where data are clipped, the noise stays what was predicted.
        inside = moment.datum.abs() < config.data_scale
        made = moment.level.signal * moment.datum + moment.level.spread * moment.noise
        torch.testing.assert_close(made[inside], moment.point[inside], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [FlowTask, DiffusionTask, ConsistencyTask])
def test_guidance_moves_the_path_as_it_moves_the_sample(kind: Any) -> None:
    configs: dict[Any, Any] = {FlowTask: FlowConfig, DiffusionTask: DDIMConfig, ConsistencyTask: ConsistencyConfig}
    samplers: dict[Any, Any] = {FlowTask: Solver("euler", 2), DiffusionTask: DiffusionSampler("ddim", 2)}
    task = rough(kind.build(configs[kind](**COMMON, conditional=True), Facts(SHAPE, classes=3)))
    start, sampler = task.start(4, seed=0), samplers.get(kind, Multistep(2))
    drawn = task.sample(task.network, start, sampler, guidance=3.0).images
    followed = [list(task.trace(task.network, start, 2, guidance))[-1].datum for guidance in (1.0, 3.0)]
    torch.testing.assert_close(followed[1], drawn, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(followed[0], drawn, atol=1e-3)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_prediction_says_noise_and_datum(prediction: Any) -> None:
    x, noise = torch.randn(2, 6, *SHAPE, dtype=torch.float64)
    for share in (0.1, 0.9):
        alpha_bar = torch.tensor(share, dtype=torch.float64)
        example = diffusion(x, noise, alpha_bar.expand(len(x)), prediction)
        found = noise_and_datum(example.target, example.x_t, alpha_bar, prediction)
        torch.testing.assert_close(found, (noise, x))


def test_system_without_paths_says_so() -> None:
    assert ImageTask.paths == "none"
    with pytest.raises(InputError, match="has `trace`, got ImageTask without"):
        ImageTask().trace(nn.Identity(), None, 1)  # pyright: ignore[reportArgumentType]
