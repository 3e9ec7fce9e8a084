"""A training step built on the coupled noise is right: a perfect model has no loss, and labels keep their data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import immiscible

SPELLINGS = ["independent", "knn:1", "knn:4", "knn:4:dot", "knn:2.5:dot", "assignment", "assignment:3", "assignment@1"]
SPELLINGS += ["reservoir:5"]
MOVING = SPELLINGS[2:]


def step(spelling: str, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The drawn noise, the time, the noisy point and the target of flow matching, with t = 1 at the data."""
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    noise = immiscible.coupling(spelling)(x, drawn, labels=labels, generator=generator)
    # Bounded away from 1, where the noise cannot be told from the noisy point.
    t = 0.95 * torch.rand(len(x), 1, 1, generator=generator, dtype=x.dtype)
    return drawn, t, (1 - t) * noise + t * x, x - noise


def data() -> tuple[Tensor, Tensor]:
    """Each datum holds its own label, so that it can be read off wherever the datum went."""
    labels = torch.randperm(31, generator=torch.Generator().manual_seed(2))
    return labels.double()[:, None, None].expand(31, 3, 5).contiguous() / 10, labels


def oracle(x_t: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """The velocity, from everything that there is to know."""
    return x - (x_t - t * x) / (1 - t)


def mean_square(residual: Tensor) -> float:
    return residual.square().mean().item()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_oracle_has_no_loss(spelling):
    x, labels = data()
    _, t, x_t, target = step(spelling, x, labels // 8)
    assert mean_square(oracle(x_t, t, x) - target) < 1e-20


@pytest.mark.parametrize("spelling", MOVING)
def test_oracle_has_a_loss_where_the_target_kept_the_drawn_noise(spelling):
    x, labels = data()
    drawn, t, x_t, _ = step(spelling, x, labels // 8)
    assert mean_square(oracle(x_t, t, x) - (x - drawn)) > 0.01


@pytest.mark.parametrize("spelling", MOVING)
def test_oracle_has_a_loss_where_the_noisy_point_kept_the_drawn_noise(spelling):
    x, labels = data()
    drawn, t, _, target = step(spelling, x, labels // 8)
    assert mean_square(oracle((1 - t) * drawn + t * x, t, x) - target) > 0.01


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_labels_still_match_their_data(spelling):
    x, labels = data()
    _, t, x_t, target = step(spelling, x, labels // 8)
    arrived = x_t + (1 - t) * target
    torch.testing.assert_close((10 * arrived.mean((1, 2))).round().long(), labels, rtol=0, atol=0)
