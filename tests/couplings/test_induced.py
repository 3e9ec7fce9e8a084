"""The law that KNN gives the noise, as a Gaussian along a few components."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from immiscible import KNN
from immiscible.couplings.induced import induced_law


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(count: int = 8000) -> Tensor:
    x = torch.randn(count, 40, generator=seeded()) * torch.linspace(3, 0.1, 40) + 1
    return x.view(count, 1, 5, 8)


@pytest.mark.parametrize("score", ["l2", "dot"])
def test_law_has_mean_and_covariance_of_the_noise(score):
    x = data()
    noise = KNN(256, score)(x, torch.randn(x.shape, generator=seeded(1)), generator=seeded(2))
    start = induced_law(x[:2000], noise).sample((8000, 1, 5, 8), generator=seeded(3))
    flat, drawn, plain = noise.flatten(1), start.flatten(1), torch.randn(8000, 40, generator=seeded(4))
    torch.testing.assert_close(drawn.mean(0), flat.mean(0), rtol=0, atol=0.06)
    # The data vary most along the first values.
    errors = [(values.T.cov() - flat.T.cov())[:4, :4].norm().item() for values in (drawn, plain)]
    assert errors[0] < errors[1] / 2
    assert abs(drawn.square().mean() - flat.square().mean()) < 0.01


def test_each_class_may_have_a_law_of_its_own():
    labels = torch.arange(8000) % 2
    x = data() + 4 * labels[:, None, None, None]
    noise = KNN(8)(x, torch.randn(x.shape, generator=seeded(1)), generator=seeded(2))
    law = induced_law(x, noise, labels)
    for label in (0, 1):
        start = law.sample((4000, 1, 5, 8), labels=torch.full((4000,), label), generator=seeded(3))
        torch.testing.assert_close(start.mean(0), noise[labels == label].mean(0), rtol=0, atol=0.08)


def test_few_dimensions_are_no_obstacle():
    x = data(500).flatten(1)[:, :3]
    noise = KNN(4)(x, torch.randn(x.shape, generator=seeded(1)), generator=seeded(2))
    assert induced_law(x, noise).sample((5, 3), generator=seeded(3)).isfinite().all()
