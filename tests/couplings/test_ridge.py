from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge as Reference

from immiscible.couplings.ridge import Moments


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("penalty", [1e-9, 1e-2, 3.0])
def test_fit_is_that_of_scikit_learn_however_the_pairs_are_split(penalty: float) -> None:
    inputs = torch.randn(120, 7, generator=seeded(), dtype=torch.float64) * torch.arange(1, 8) + 1000
    outputs = inputs[:, :3] / 10 + torch.randn(120, 3, generator=seeded(1), dtype=torch.float64) - 500
    standard = (inputs - inputs.mean(0)) / inputs.std(0, correction=0)
    expected = torch.from_numpy(
        Reference(120 * penalty).fit(standard.numpy(), outputs.numpy()).predict(standard.numpy())
    )
    for size in (120, 50, 1):
        moments = Moments()
        for some, others in zip(inputs.split(size), outputs.split(size), strict=True):
            moments.add(some, others)
        fitted = moments.fit(torch.tensor([penalty], dtype=torch.float64))
        torch.testing.assert_close(fitted(inputs), expected, rtol=1e-9, atol=1e-7)
        torch.testing.assert_close(fitted.variance, outputs.var(0, correction=0))
        torch.testing.assert_close(fitted.left, (outputs - expected).square().mean(0))


def test_penalty_grows_with_what_is_noise() -> None:
    penalties = torch.logspace(-6, 4, 41, dtype=torch.float64)
    inputs = torch.randn(100, 90, generator=seeded(), dtype=torch.float64)
    noise = torch.randn(100, 2, generator=seeded(1), dtype=torch.float64)
    shares = []
    for outputs in (noise, inputs[:, :2] + 1e-3 * noise):
        moments = Moments()
        moments.add(inputs, outputs)
        fitted = moments.fit(penalties)
        shares.append(float((fitted.left / fitted.variance).mean()))
    assert shares[0] > 0.5
    assert shares[1] < 1e-3
