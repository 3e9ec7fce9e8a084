"""Consistency training against its paper's formulas, diffusers' scheduler, and networks that know the answer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from immiscible import coupling
from immiscible.config.recipes import ConsistencyConfig
from immiscible.networks import TIME_SCALE
from immiscible.processes import pseudo_huber
from immiscible.samplers import Multistep
from immiscible.samplers.consistency import two_steps
from immiscible.tasks.base import Facts, draw_start
from immiscible.tasks.consistency import (
    ConsistencyTask,
    denoised,
    karras_levels,
    level_count,
    level_weights,
    make_scheduler,
)
from immiscible.training.task import Batch

SHAPE = (1, 5, 7)


def config(**values: Any) -> ConsistencyConfig:
    return ConsistencyConfig(out=Path("run"), network="mlp", width=16, depth=1, **values)


def task(**values: Any) -> ConsistencyTask:
    return ConsistencyTask.build(config(**values), Facts(SHAPE))


def batch(x: Tensor, noise: Tensor, step: int = 0) -> Batch:
    return Batch(x, noise, None, step, torch.Generator().manual_seed(0))


class Oracle(nn.Module):
    """Knows the data, and gives what makes the consistency function return it."""

    def __init__(self, x: Tensor, config: ConsistencyConfig) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))
        self.x, self.config = x, config
        self.levels: list[Tensor] = []

    def forward(self, points: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        sigma = (4 * t.double()).exp()[:, None, None, None]
        self.levels.append(sigma.flatten())
        data = self.config.sigma_data
        root, above = (sigma**2 + data**2).sqrt(), sigma - self.config.sigma_min
        skip, out = data**2 / (above**2 + data**2), above * data / root
        return ((self.x - skip * points * root) / out).to(points.dtype) + 0 * self.anchor


def test_function_is_the_identity_at_the_smallest_level() -> None:
    x, settings = torch.randn(3, *SHAPE), config()
    f = denoised(lambda points, t: torch.full_like(points, 1e3), x, torch.full((3,), settings.sigma_min), settings)
    torch.testing.assert_close(f, x)


def test_function_is_that_of_the_scheduler_of_diffusers() -> None:
    """One step of the scheduler from its largest level is the consistency function there."""
    settings = config()
    scheduler = make_scheduler(settings)
    scheduler.set_timesteps(1)
    x = 80 * torch.randn(3, *SHAPE)
    t = scheduler.timesteps[0]
    output = torch.randn(3, *SHAPE)
    seen: list[Tensor] = []

    def network(points: Tensor, time: Tensor) -> Tensor:
        seen.extend((points, time))
        return output

    ours = denoised(network, x, torch.full((3,), 80.0), settings).clamp(-1, 1)
    torch.testing.assert_close(seen[0], scheduler.scale_model_input(x, t))
    torch.testing.assert_close(seen[1][0].item() * TIME_SCALE, t.item(), rtol=1e-5, atol=0)
    torch.testing.assert_close(ours, scheduler.step(output, t, x).prev_sample)  # pyright: ignore


@pytest.mark.parametrize("spelling", ["independent", "knn:4", "assignment"])
def test_oracle_has_no_loss_after_pairing(spelling: str) -> None:
    consistency = task()
    x = torch.randn(32, *SHAPE, dtype=torch.float64)
    noise = coupling(spelling)(x, torch.randn_like(x))
    loss = consistency.loss(Oracle(x, consistency.config), batch(x, noise))
    torch.testing.assert_close(loss.item(), 0.0, rtol=0, atol=1e-3)


def test_both_ends_of_a_pair_lie_on_one_path_of_the_paired_noise() -> None:
    """What the network sees, unscaled, minus the data, over its level, must be the very noise handed in."""
    consistency = task()
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, points: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            sigma = (4 * t).exp()[:, None, None, None]
            seen.append((points * (sigma**2 + 0.25).sqrt() - x) / sigma)
            return points

    x, noise = torch.randn(2, 16, *SHAPE, dtype=torch.float64)
    consistency.loss(Spy(), batch(x, noise))
    assert len(seen) == 2
    for end in seen:
        torch.testing.assert_close(end, noise, rtol=1e-3, atol=1e-3)


def test_both_ends_see_the_same_dropout() -> None:
    consistency = task()
    masks: list[Tensor] = []

    class Dropping(nn.Module):
        def forward(self, points: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            masks.append(nn.functional.dropout(torch.ones(1000), 0.5))
            return points

    x, noise = torch.randn(2, 4, *SHAPE)
    consistency.loss(Dropping(), batch(x, noise))
    torch.testing.assert_close(masks[0], masks[1], rtol=0, atol=0)
    other = Batch(x, noise, None, 1, torch.Generator().manual_seed(1))
    consistency.loss(Dropping(), other)
    assert not torch.equal(masks[0], masks[2])


def test_only_the_upper_end_is_trained() -> None:
    consistency = task()
    modes: list[bool] = []

    class Spy(nn.Module):
        def forward(self, points: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            modes.append(torch.is_grad_enabled())
            levels.append(t)
            return points

    levels: list[Tensor] = []
    x, noise = torch.randn(2, 4, *SHAPE)
    consistency.loss(Spy(), batch(x, noise))
    assert modes == [False, True]
    assert bool((levels[1] > levels[0]).all())


def test_levels_double_along_the_training_as_published() -> None:
    settings = config(steps=800, levels=10, most_levels=1280)
    assert [level_count(step, settings) for step in (0, 99, 100, 399, 400, 699, 700, 799)] == [
        10, 10, 20, 80, 160, 640, 1280, 1280,
    ]  # fmt: skip
    assert level_count(10_000, settings) == 1280
    fixed = config(steps=1600, curriculum=800)
    assert level_count(400, fixed) == 160


def test_levels_are_those_of_the_scheduler() -> None:
    settings = config()
    scheduler = make_scheduler(settings)
    torch.testing.assert_close(karras_levels(40, settings).flip(0), scheduler.sigmas.float()[:40])


def test_levels_are_drawn_from_the_lognormal() -> None:
    """The weight of an interval is the lognormal's mass in it, up to a factor."""
    settings = config()
    levels = karras_levels(21, settings)
    normal = torch.distributions.Normal(-1.1, 2.0)
    expected = normal.cdf(levels.log()).diff()
    weights = level_weights(levels, settings)
    torch.testing.assert_close(weights / weights.sum(), expected / expected.sum(), rtol=1e-3, atol=1e-6)


def test_pseudo_huber_is_quadratic_near_and_linear_far() -> None:
    zero = torch.zeros(2, 4, dtype=torch.float64)
    apart = torch.tensor([[1e-4, 0, 0, 0], [3e3, 4e3, 0, 0]], dtype=torch.float64)
    distance = pseudo_huber(apart, zero, 0.03)
    torch.testing.assert_close(distance, torch.tensor([1e-8 / 0.06, 5e3 - 0.03]), rtol=1e-2, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_oracle_is_sampled_back(steps: int, scale: float) -> None:
    consistency = task(data_scale=scale)
    x = torch.rand(4, *SHAPE) * 2 - 1
    oracle = Oracle(scale * x.double(), consistency.config)
    drawn = consistency.sample(oracle, draw_start(SHAPE, 4, 0, 0, "cpu"), Multistep(steps))
    torch.testing.assert_close(drawn.images, x, rtol=0, atol=1e-3)
    assert drawn.nfe == steps == len(oracle.levels)
    torch.testing.assert_close(oracle.levels[0][0].item(), 80.0, rtol=1e-3, atol=0)


def test_second_of_two_steps_is_near_the_published_level() -> None:
    scheduler = make_scheduler(config())
    steps = two_steps(scheduler)
    scheduler.set_timesteps(timesteps=steps)
    assert math.isclose(scheduler.sigmas[1].item(), 0.821, rel_tol=0.1)
    assert steps[1] == 0


def test_schedule_shift_divides_every_level() -> None:
    plain, shifted = task(), task(schedule_shift=2.0)
    torch.testing.assert_close(shifted.levels(0), plain.levels(0) / 2)
    torch.testing.assert_close(
        level_weights(shifted.levels(0), shifted.config), level_weights(plain.levels(0), plain.config)
    )
