from __future__ import annotations

import torch

from immiscible.processes import flow, weighted_mse


def test_path_starts_at_the_noise_and_ends_at_the_data() -> None:
    x, noise = torch.randn(2, 5, 3, 7, 2)
    torch.testing.assert_close(flow(x, noise, torch.zeros(5)).x_t, noise)
    torch.testing.assert_close(flow(x, noise, torch.ones(5)).x_t, x)


def test_target_is_the_derivative_of_the_path() -> None:
    x, noise = torch.randn(2, 5, 3, 7, 2, dtype=torch.float64)
    t = torch.rand(5, dtype=torch.float64)
    difference = (flow(x, noise, t + 1e-6).x_t - flow(x, noise, t).x_t) / 1e-6
    torch.testing.assert_close(flow(x, noise, t).target, difference, rtol=1e-6, atol=1e-6)


def test_loss_weighs_each_example() -> None:
    x, noise = torch.zeros(2, 3), torch.ones(2, 3)
    example = flow(x, noise, torch.rand(2))
    prediction = torch.zeros(2, 3)
    torch.testing.assert_close(weighted_mse(prediction, example), torch.tensor(1.0))
    example.weight[0] = 3.0
    torch.testing.assert_close(weighted_mse(prediction, example), torch.tensor(2.0))
