"""Mixtures of Gaussians: fitted to data, drawn from normal and uniform numbers."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from scipy import stats
from torch import Tensor

from immiscible import InputError
from immiscible.couplings.mixtures import Gaussians, fit_mixture

CENTRES = torch.tensor([[-4.0, 0.0], [4.0, 1.0], [0.0, 6.0]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codes(count: int = 900, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three groups of different size and width, of two classes."""
    draws = seeded(seed)
    group = torch.rand(count, generator=draws).mul(4).long().clamp_max(2)
    widths = torch.tensor([[1.0, 0.3], [0.5, 0.5], [0.2, 1.0]])
    points = CENTRES[group] + widths[group] * torch.randn(count, 2, generator=draws)
    return points, (group == 2).long() * 7


def drawn(mixture: Gaussians, count: int, kinds: Tensor | None = None, seed: int = 1) -> Tensor:
    draws = seeded(seed)
    normal, uniform = torch.randn(count, 2, generator=draws), torch.rand(count, generator=draws)
    return mixture.draw(normal, uniform, torch.zeros(count, dtype=torch.int64) if kinds is None else kinds)


def test_mixture_has_the_law_of_its_data():
    points, new = codes()[0], drawn(fit_mixture(codes(3000)[0], components=3), 3000)
    for axis in torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]):
        assert stats.ks_2samp(points @ axis, new @ axis).pvalue > 0.01
    # A single Gaussian has it not.
    assert stats.ks_2samp(points[:, 1], drawn(fit_mixture(points, components=1), 3000)[:, 1]).pvalue < 1e-4


def test_mixture_of_each_class_has_the_law_of_that_class():
    points, labels = codes(3000)
    mixture = fit_mixture(points, labels, components=4)
    assert mixture.classes.tolist() == [0, 7]
    for kind, label in enumerate([0, 7]):
        new = drawn(mixture, 2000, torch.full((2000,), kind))
        for axis in torch.eye(2):
            assert stats.ks_2samp(points[labels == label] @ axis, new @ axis).pvalue > 0.01


def test_classes_with_fewer_data_have_fewer_components():
    points = torch.randn(109, 2, generator=seeded())
    mixture = fit_mixture(points, torch.arange(109).clamp_max(100) // 100, components=30)
    # Nine data of three each, and one hundred.
    assert (mixture.weights > 0).sum(1).tolist() == [30, 3]
    new = drawn(mixture, 500, torch.ones(500, dtype=torch.int64))
    assert new.isfinite().all()
    assert new.abs().max() < 10


def test_fit_and_draws_depend_on_their_seeds_only():
    points, state = codes()[0], torch.get_rng_state()
    one, same, other = (fit_mixture(points, components=5, seed=seed) for seed in (3, 3, 4))
    assert torch.get_rng_state().equal(state)
    for name, value in one.tensors().items():
        torch.testing.assert_close(same.tensors()[name], value, rtol=0, atol=0)
    assert not one.means.equal(other.means)


def test_every_uniform_number_chooses_a_component():
    mixture = fit_mixture(*codes(60), components=9)
    last = math.nextafter(1.0, 0.0)
    for kind in (0, 1):
        uniform, kinds = torch.tensor([0.0, last], dtype=torch.float64), torch.tensor([kind, kind])
        held = int((mixture.weights[kind] > 0).sum()) - 1
        new = mixture.draw(torch.zeros(2, 2), uniform, kinds)
        torch.testing.assert_close(
            new, torch.stack([mixture.means[kind, 0], mixture.means[kind, held]]), rtol=0, atol=0
        )


def test_likeliest_component_is_that_of_the_point():
    mixture = fit_mixture(codes(3000)[0], components=3)
    kinds, components = torch.zeros(300, dtype=torch.int64), torch.arange(300) % 3
    points = mixture.moved(torch.randn(300, 2, generator=seeded()), kinds, components)
    assert (mixture.likeliest(points, kinds) == components).float().mean() > 0.97


def test_diluted_mixture_is_that_of_diluted_points():
    mixture, strength = fit_mixture(codes(3000)[0], components=3), 0.6
    noise = torch.randn(3000, 2, generator=seeded(4))
    expected = strength * drawn(mixture, 3000, seed=5) + math.sqrt(1 - strength**2) * noise
    new = drawn(mixture.diluted(strength), 3000)
    for axis in torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]):
        assert stats.ks_2samp(expected @ axis, new @ axis).pvalue > 0.01
    torch.testing.assert_close(new.T.cov(), expected.T.cov(), rtol=0.1, atol=0.1)


def test_of_many_data_a_sample_is_looked_at_with_all_classes(monkeypatch):
    monkeypatch.setattr("immiscible.couplings.mixtures.MOST", 50)
    points, labels = torch.randn(500, 2, generator=seeded()), torch.zeros(500, dtype=torch.int64)
    labels[17], labels[400] = 1, 2
    assert fit_mixture(points, labels, components=2).classes.tolist() == [0, 1, 2]


def test_equal_data_are_no_obstacle():
    new = drawn(fit_mixture(torch.full((40, 2), 3.0)), 10)
    torch.testing.assert_close(new, torch.full((10, 2), 3.0), rtol=0, atol=1e-4)


def test_missing_library_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    with pytest.raises(InputError, match=r"^a mixture of several components needs scikit-learn, got none installed"):
        fit_mixture(codes()[0])
    assert fit_mixture(codes()[0], components=1).weights.shape == (1, 1)


@pytest.mark.parametrize("given", [torch.zeros(0, 3), torch.zeros(3), torch.full((4, 3), torch.nan)])
def test_codes_must_be_finite_rows(given):
    with pytest.raises(InputError, match=r"^`codes` must be finite with shape \(N, r\), got shape"):
        fit_mixture(given)
