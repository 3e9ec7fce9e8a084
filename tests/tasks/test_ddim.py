"""Diffusion against diffusers' own formulas, and against networks that know the answer."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn

from immiscible import coupling
from immiscible.config.recipes import DDIMConfig
from immiscible.errors import InputError
from immiscible.networks import TIME_SCALE
from immiscible.processes import diffusion
from immiscible.samplers import DiffusionSampler, Start
from immiscible.tasks.base import Facts, draw_start
from immiscible.tasks.ddim import DiffusionTask, make_schedule
from immiscible.training.task import Batch

SHAPE = (1, 5, 7)


def config(**values: Any) -> DDIMConfig:
    return DDIMConfig(out=Path("run"), network="mlp", width=16, depth=1, **values)


def batch(x: Tensor, noise: Tensor) -> Batch:
    return Batch(x, noise, None, 0, torch.Generator().manual_seed(0))


class Oracle(nn.Module):
    """Knows the data, and so what every prediction should be."""

    def __init__(self, x: Tensor, task: DiffusionTask) -> None:
        super().__init__()
        self.x, self.task = x, task

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha_bar = self.task.schedule.alphas_cumprod.double()[(t * TIME_SCALE).round().long()][:, None, None, None]
        noise = (x_t - alpha_bar.sqrt() * self.x) / (1 - alpha_bar).sqrt()
        velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * self.x
        return {"eps": noise, "v": velocity, "x0": self.x.expand(x_t.shape)}[self.task.config.prediction].to(x_t.dtype)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_points_and_targets_are_those_of_diffusers(prediction: Any) -> None:
    schedule = DDPMScheduler()
    x, noise = torch.randn(2, 6, *SHAPE)
    t = torch.tensor([0, 1, 10, 500, 998, 999])
    example = diffusion(x, noise, schedule.alphas_cumprod[t], prediction)
    torch.testing.assert_close(example.x_t, schedule.add_noise(x, noise, t))  # pyright: ignore[reportArgumentType]
    velocity = schedule.get_velocity(x, noise, t)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(example.target, {"eps": noise, "v": velocity, "x0": x}[prediction])
    torch.testing.assert_close(example.weight, torch.ones(6))


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_min_snr_weights_the_error_in_the_data_alike_whatever_is_predicted(prediction: Any) -> None:
    """With an error e in x0, each prediction is off by another factor; weight times square must be min(SNR, gamma)."""
    alpha_bar = torch.tensor([0.99, 0.9, 0.5, 0.1, 0.01], dtype=torch.float64)
    zero = torch.zeros(5, 1, dtype=torch.float64)
    weight = diffusion(zero, zero, alpha_bar, prediction, 5.0).weight
    snr = alpha_bar / (1 - alpha_bar)
    square_per_error = {"eps": snr, "v": 1 / (1 - alpha_bar), "x0": torch.ones_like(snr)}[prediction]
    torch.testing.assert_close(weight * square_per_error, snr.clamp(max=5.0))


@pytest.mark.parametrize("spelling", ["independent", "knn:4", "assignment"])
@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("settings", [{}, {"schedule": "cosine", "min_snr": 5.0}, {"schedule_shift": 2.0}])
def test_oracle_has_no_loss_after_pairing(spelling: str, prediction: Any, settings: dict[str, Any]) -> None:
    task = DiffusionTask.build(config(prediction=prediction, **settings), Facts(SHAPE))
    x = torch.randn(64, *SHAPE, dtype=torch.float64)
    noise = coupling(spelling)(x, torch.randn_like(x))
    loss = task.loss(Oracle(x, task), batch(x, noise))
    torch.testing.assert_close(loss.item(), 0.0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize(
    "sampler", [DiffusionSampler("ddim", 5), DiffusionSampler("ddim", 8, 1.0), DiffusionSampler("ddpm", 20)]
)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_oracle_is_sampled_back(prediction: Any, sampler: DiffusionSampler, scale: float) -> None:
    task = DiffusionTask.build(config(prediction=prediction, data_scale=scale), Facts(SHAPE))
    x = torch.rand(4, *SHAPE) * 2 - 1
    drawn = task.sample(Oracle(scale * x.double(), task), draw_start(SHAPE, 4, 0, 0, "cpu"), sampler)
    torch.testing.assert_close(drawn.images, x, rtol=0, atol=0.02)
    assert drawn.nfe == sampler.nfe


def test_ddpm_of_every_step_has_the_law_of_the_data() -> None:
    """For Gaussian data N(0, 1/4) the best prediction is linear, and ancestral sampling must give that law back."""

    class Best(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.anchor = nn.Parameter(torch.zeros(()))

        def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            alpha_bar = task.schedule.alphas_cumprod[(t * TIME_SCALE).round().long()][:, None, None, None]
            return x_t * (1 - alpha_bar).sqrt() / (alpha_bar / 4 + 1 - alpha_bar)

    task = DiffusionTask.build(config(timesteps=1000), Facts(SHAPE))
    task.schedule.register_to_config(clip_sample=False)
    start = draw_start(SHAPE, 400, 0, 0, "cpu")
    for sampler in (DiffusionSampler("ddpm", 250), DiffusionSampler("ddim", 100), DiffusionSampler("ddim", 250, 1.0)):
        images = task.sample(Best(), start, sampler).images
        assert abs(images.std().item() - 0.5) < 0.02, sampler


def test_zero_terminal_snr_ends_in_pure_noise() -> None:
    plain = make_schedule(config()).alphas_cumprod[-1]
    zero = make_schedule(config(prediction="v", zero_terminal_snr=True)).alphas_cumprod[-1]
    assert plain > 1e-5 > zero


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedule_shift_multiplies_the_ratio_of_signal_to_noise(schedule: Any) -> None:
    plain, shifted = (
        make_schedule(config(schedule=schedule, schedule_shift=shift)).alphas_cumprod.double() for shift in (1.0, 2.0)
    )
    ratio = (shifted / (1 - shifted) / (plain / (1 - plain))).sqrt()
    torch.testing.assert_close(ratio[1:-1], torch.full_like(ratio[1:-1], 2.0), rtol=2e-3, atol=0)


def test_schedule_of_the_published_setting() -> None:
    betas = make_schedule(config()).betas
    torch.testing.assert_close(betas[[0, -1]], torch.tensor([1e-4, 0.02]))
    assert len(betas) == 1000


def test_oracle_of_all_timesteps_is_asked_for_the_scheduler_s_own() -> None:
    seen: list[float] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.anchor = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
            seen.append(t[0].item() * TIME_SCALE)
            return torch.zeros_like(x)

    for spacing, first in (("trailing", 999.0), ("leading", 800.0)):
        seen.clear()
        task = DiffusionTask.build(config(spacing=spacing), Facts(SHAPE))
        task.sample(Spy(), draw_start(SHAPE, 1, 0, 0, "cpu"), DiffusionSampler("ddim", 5))
        assert math.isclose(seen[0], first, abs_tol=0.01)
        assert len(seen) == 5


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_start_between_noise_and_data_goes_on_from_the_nearest_level(prediction: Any) -> None:
    x, noise = torch.rand(2, 3, *SHAPE) - 0.5
    task = DiffusionTask.build(config(prediction=prediction, data_scale=2.0, schedule_shift=1.5), Facts(SHAPE))
    oracle, seen = Oracle(2 * x, task), []
    oracle.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    start = Start(noise, None, [0, 1, 2], data=x, time=0.4)
    drawn = task.sample(oracle, start, DiffusionSampler("ddim", 7))
    assert drawn.nfe == len(seen) == 7
    torch.testing.assert_close(drawn.images, x, rtol=0, atol=2e-3)
    points, t = seen[0][:2]
    alpha_bar = task.schedule.alphas_cumprod[int((t[0] * TIME_SCALE).round())]
    signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    assert (signal / (signal + spread)).item() == pytest.approx(0.4, abs=2e-3)
    torch.testing.assert_close(points, signal * 2 * x + spread * noise)
    # The steps are even, the last of them to the data.
    numbers = [round(float(inputs[1][0]) * TIME_SCALE) for inputs in seen]
    gaps = [before - after for before, after in itertools.pairwise([*numbers, -1])]
    assert max(gaps) - min(gaps) <= 1


def test_start_between_noise_and_data_has_fewer_levels() -> None:
    task = DiffusionTask.build(config(timesteps=20, schedule="cosine"), Facts(SHAPE))
    start = Start(torch.randn(1, *SHAPE), None, [0], data=torch.zeros(1, *SHAPE), time=0.5)
    with pytest.raises(InputError, match=r"--nfe must be at most the \d+ timesteps from the time 0.5 on, got 20"):
        task.sample(task.network, start, DiffusionSampler("ddim", 20))
