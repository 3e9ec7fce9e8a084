"""Coupling in some batches only."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from immiscible import KNN, Independent, InputError, LinearAssignment, Mixed


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(*shape: int) -> tuple[Tensor, Tensor]:
    generator = seeded()
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def negated(x, noise, *, labels=None, generator=None):
    return -noise


@pytest.mark.parametrize("p", [0, 0.0, 1, 1.0])
def test_probability_zero_never_couples_and_one_always(p):
    x, noise = batch(7, 5)
    expected = -noise if p else noise
    for seed in range(20):
        assert_same(Mixed(negated, p)(x, noise, generator=seeded(seed)), expected)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
def test_share_of_coupled_batches_is_the_probability(p):
    x, noise = batch(3, 2)
    generator = seeded(1)
    coupled = [Mixed(negated, p)(x, noise, generator=generator) for _ in range(1000)]
    assert all(result.equal(noise) or result.equal(-noise) for result in coupled)
    share = sum(result.equal(-noise) for result in coupled) / 1000
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / 1000)


@pytest.mark.parametrize("inner", [KNN(4), LinearAssignment(block=3)], ids=str)
def test_coin_is_the_first_draw_and_the_rest_is_the_inner_couplings(inner):
    x, noise = batch(7, 5)
    coins = set()
    for seed in range(20):
        generator = seeded(seed)
        heads = torch.rand((), generator=generator).item() < 0.5
        expected = (inner if heads else Independent())(x, noise, generator=generator)
        assert_same(Mixed(inner, 0.5)(x, noise, generator=seeded(seed)), expected)
        coins.add(heads)
    assert coins == {True, False}


def test_labels_and_generator_are_handed_on():
    given = {}

    def spy(x, noise, **options):
        given.update(options)
        return noise

    x, noise = batch(7, 5)
    labels, generator = torch.arange(7), seeded()
    Mixed(spy, 1)(x, noise, labels=labels, generator=generator)
    assert given["labels"] is labels
    assert given["generator"] is generator


def test_labels_bind_the_inner_assignment():
    x, noise = batch(7, 5)
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 1])
    expected = LinearAssignment()(x, noise, labels=labels)
    assert_same(Mixed(LinearAssignment(), 1)(x, noise, labels=labels), expected)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, math.inf, True, "0.5", None])
def test_no_probability_is_refused(p):
    with pytest.raises(InputError, match=r"^`p` must be a probability in \[0, 1\], got .*\.$"):
        Mixed(KNN(2), p)


@pytest.mark.parametrize("inner", ["knn:2", None])
def test_no_coupling_inside_is_refused(inner):
    with pytest.raises(InputError, match=r"^`coupling` must be a coupling, got .*: try `LinearAssignment\(\)`\.$"):
        Mixed(inner, 0.5)


def test_independent_returns_the_noise_itself():
    x, noise = batch(7, 5)
    assert_same(Independent()(x, noise), noise)
    assert Independent()(x, noise).data_ptr() == noise.data_ptr()
