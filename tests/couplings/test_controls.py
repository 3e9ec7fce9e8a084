"""Assignments that are no optimal transport: the worst one, and those for costs that are partly random."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from immiscible import CostSpace, InSpace, LinearAssignment, Mixed, Pool, permutation
from immiscible.couplings.solvers.dense import perturb
from immiscible.seeds import seeded

WORST = LinearAssignment(goal="worst")


def batch(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draws = seeded(seed)
    return torch.randn(shape, generator=draws) + 0.5, torch.randn(shape, generator=draws)


def squared_distance(x: Tensor, noise: Tensor) -> float:
    return (x.double() - noise.double()).square().sum().item()


def gain(x: Tensor, noise: Tensor) -> float:
    return (x * noise).sum().item()


@pytest.mark.parametrize("n", range(1, 7))
def test_no_permutation_is_worse_than_the_worst_nor_better_for_the_mirrored_noise(n: int) -> None:
    x, noise = batch(n, 2, 3, seed=n)
    orders = [list(order) for order in itertools.permutations(range(n))]
    coupled = WORST(x, noise)
    assert squared_distance(x, coupled) == pytest.approx(max(squared_distance(x, noise[order]) for order in orders))
    assert squared_distance(x, -coupled) == pytest.approx(min(squared_distance(x, -noise[order]) for order in orders))


@pytest.mark.parametrize("solver", ["exact", "auction", "sinkhorn", "slabs"])
def test_every_solver_finds_what_it_would_for_the_mirrored_data(solver: str) -> None:
    x, noise = batch(97, 5)
    worst = LinearAssignment(8, solver, goal="worst")(x, noise, generator=seeded(1))  # pyright: ignore
    best = LinearAssignment(8, solver)(-x, noise, generator=seeded(1))  # pyright: ignore
    torch.testing.assert_close(worst, best, rtol=0, atol=0)
    assert gain(x - 0.5, worst) < -0.5 * x.numel() ** 0.5


@pytest.mark.parametrize("coarse", [False, True])
def test_pools_and_spaces_have_the_worst_too(coarse: bool) -> None:
    x, _ = batch(24, 6)
    space = CostSpace(basis=torch.eye(6)[:2]) if coarse else CostSpace(centre=torch.full((6,), 0.5))
    pool = [Pool(InSpace(coupling, space), 24)(x.split(8)) for coupling in (Mixed(WORST, 0), WORST)]
    drawn, paired = (torch.cat([noise for _, noise in batches]) for batches in pool)
    torch.testing.assert_close(paired, InSpace(WORST, space)(x, drawn), rtol=0, atol=1e-6)
    assert gain(x[:, :2] - 0.5, paired[:, :2]) < gain(x[:, :2] - 0.5, drawn[:, :2])


def test_labels_keep_the_worst_and_the_random_within_their_classes() -> None:
    x, noise = batch(40, 5)
    labels = torch.arange(40) % 3
    for coupling in (WORST, LinearAssignment(temperature=1)):
        order = permutation(coupling, x, noise, labels=labels, generator=seeded(2))
        torch.testing.assert_close(labels[order], labels)
        assert not order.equal(torch.arange(40))


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_of_two_data_the_pairs_are_drawn_by_the_law_of_two_logistic_variables(temperature: float) -> None:
    """They change places where the sum of two logistic variables exceeds what that costs, over the temperature."""
    x, noise = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0]])
    draws, coupling = seeded(0), LinearAssignment(temperature=temperature)
    drawn = sum(permutation(coupling, x, noise, generator=draws).tolist() == [0, 1] for _ in range(2000)) / 2000
    # The doubly centred cost is +-1/4, with a standard deviation of 1/sqrt(12).
    excess = 1 / (temperature / math.sqrt(12))
    power = math.exp(excess)
    expected = power * (power - 1 - excess) / (power - 1) ** 2
    assert abs(drawn - expected) < 4 * math.sqrt(expected * (1 - expected) / 2000)


def test_temperature_leads_from_the_assignment_to_independent_noise() -> None:
    x, noise = batch(256, 16)
    best = gain(x - 0.5, LinearAssignment()(x, noise))
    kept = [
        gain(x - 0.5, LinearAssignment(temperature=temperature)(x, noise, generator=seeded(3))) / best
        for temperature in (0, 1e-4, 0.1, 0.3, 1, 3, 1e6)
    ]
    assert kept[:2] == pytest.approx([1, 1], abs=1e-3)
    assert kept == sorted(kept, reverse=True)
    assert 0.7 < kept[3] < 0.95
    assert 0.25 < kept[4] < 0.6
    assert abs(kept[-1]) < 0.1
    assert LinearAssignment(temperature=1e-4)(x, noise).equal(LinearAssignment()(x, noise))


def test_hot_permutations_are_all_as_likely() -> None:
    x, noise = batch(3, 4)
    draws, hot = seeded(0), LinearAssignment(temperature=1e6)
    orders = [tuple(permutation(hot, x, noise, generator=draws).tolist()) for _ in range(1200)]
    assert len(set(orders)) == 6
    assert all(150 < orders.count(order) < 250 for order in set(orders))


def test_what_is_added_to_a_cost_is_gumbel_noise_of_its_own_for_each_group() -> None:
    cost = torch.randn(64, 64, generator=seeded(1))
    centred = cost - cost.mean(0)
    centred -= centred.mean(1, keepdim=True)
    draws = seeded(2)
    added = [(perturb(cost.clone(), 0.7, draws) - centred) / (0.7 * centred.std()) for _ in range(2)]
    for gumbel in added:
        assert kstest(-gumbel.flatten().numpy(), "gumbel_r").pvalue > 0.01
    assert not torch.allclose(*added)
    assert perturb(cost, 0, draws) is cost


@pytest.mark.parametrize("coupling", [WORST, LinearAssignment(temperature=0.5)], ids=str)
def test_the_law_of_each_noise_stays_exact(coupling: LinearAssignment) -> None:
    """Along the direction that the data point in, too, where a rule that picks noises would show."""
    draws, direction = seeded(5), torch.tensor([3.0, 0.0, 0.0])
    taken = []
    for _ in range(60):
        x = direction * torch.randn(32, 1, generator=draws) + torch.randn(32, 3, generator=draws)
        noise = torch.randn(32, 3, generator=draws)
        taken.append(coupling(x, noise, generator=draws))
    every = torch.cat(taken)
    assert kstest(every[:, 0].numpy(), "norm").pvalue > 0.01
    assert kstest(every.square().sum(1).numpy(), "chi2", (3,)).pvalue > 0.01
