from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from immiscible import coupling
from immiscible.config.recipes import FlowConfig
from immiscible.data import load
from immiscible.processes import shifted_time
from immiscible.samplers import Solver, Start
from immiscible.tasks.base import Facts
from immiscible.tasks.flow import FlowTask
from immiscible.training.task import Batch

SHAPE = (1, 8, 8)


def task(**values: object) -> FlowTask:
    config = FlowConfig(out=Path("run"), width=16, depth=1, **values)  # pyright: ignore[reportArgumentType]
    return FlowTask.build(config, Facts(SHAPE))


def batch(x: Tensor, noise: Tensor, seed: int = 0) -> Batch:
    return Batch(x, noise, None, 0, torch.Generator().manual_seed(seed))


class Oracle(nn.Module):
    """Knows the data, and so the noise in each noisy point and the velocity."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x
        self.times: list[Tensor] = []

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.times.append(t)
        return (self.x - x_t) / (1 - t[:, None, None, None])


def test_same_generator_gives_the_same_loss() -> None:
    flow = task()
    x, noise = torch.randn(2, 8, *SHAPE)
    losses = [flow.loss(flow.network, batch(x, noise, seed)).item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("spelling", ["independent", "knn:4", "assignment"])
@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_oracle_has_no_loss_after_pairing(spelling: str, shift: float) -> None:
    """Were the target made of other noise than the noisy point, the oracle would err by the difference."""
    x = torch.randn(64, *SHAPE, dtype=torch.float64)
    noise = coupling(spelling)(x, torch.randn_like(x))
    loss = task(schedule_shift=shift).loss(Oracle(x), batch(x, noise))
    torch.testing.assert_close(loss.item(), 0.0, rtol=0, atol=1e-8)


def test_shift_moves_the_times_of_training() -> None:
    x = torch.randn(64, *SHAPE, dtype=torch.float64)
    plain, shifted = Oracle(x), Oracle(x)
    task().loss(plain, batch(x, torch.randn_like(x)))
    task(schedule_shift=3.0).loss(shifted, batch(x, torch.randn_like(x)))
    torch.testing.assert_close(shifted.times[0], shifted_time(plain.times[0], 3.0))


def test_scaled_data_comes_back_in_its_own_range() -> None:
    """The exact velocity towards s x ends in s x, of which sampling must return x."""
    flow = task(data_scale=4.0)
    x = load("digits").batch([0, 1, 2])[0]
    from immiscible.tasks.base import draw_start

    start = draw_start(SHAPE, 3, 0, 0, "cpu")
    drawn = flow.sample(Oracle(4 * x), start, Solver("euler", 5))
    torch.testing.assert_close(drawn.images, x, rtol=0, atol=1e-5)


class Straight(nn.Module):
    """Goes along one velocity for each point, and keeps where it was asked."""

    def __init__(self, velocity: Tensor) -> None:
        super().__init__()
        self.velocity = velocity
        self.asked: list[tuple[Tensor, float]] = []

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        self.asked.append((x_t, float(t[0])))
        return self.velocity


@pytest.mark.parametrize(("method", "nfe"), [("euler", 4), ("heun", 8), ("adaptive", None)])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_start_between_noise_and_data_takes_as_many_calls_from_there(
    method: Any, nfe: int | None, shift: float
) -> None:
    flow = task(data_scale=2.0, schedule_shift=shift)
    x, noise = torch.rand(2, 3, *SHAPE)
    network = Straight(2 * x - noise)
    drawn = flow.sample(network, Start(noise, None, [0, 1, 2], data=x, time=0.4), Solver(method, nfe))
    torch.testing.assert_close(drawn.images, x)
    point, first = network.asked[0]
    assert first == pytest.approx(0.4)
    torch.testing.assert_close(point, 0.4 * 2 * x + 0.6 * noise)
    assert drawn.nfe == len(network.asked) == (nfe or drawn.nfe)
    if method == "euler":
        times = [shifted_time(u, shift) for u in torch.linspace(shifted_time(0.4, 1 / shift), 1, 5).tolist()]
        assert [t for _, t in network.asked] == pytest.approx(times[:-1])
