"""The rungs of the ladder: each gives a permutation, and keeps what it says of what the exact solver gains."""

from __future__ import annotations

import logging
import re

import pytest
import torch
from torch import Tensor

from immiscible import InputError, LinearAssignment
from immiscible.couplings import log as notes
from immiscible.couplings.distributed.ranks import Ranks
from immiscible.couplings.solvers.dense import SOLVERS, auction, exact, sinkhorn
from immiscible.couplings.solvers.leading import Leading, held_share, leading_components
from immiscible.couplings.solvers.select import EXACT_UP_TO, Method, chosen, exact_seconds, slabs_seconds
from immiscible.couplings.solvers.slabs import slabs

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Image-like data of few leading components, and noise."""
    draws = seeded(seed)
    small = torch.randn(count, 1, 5, 5, generator=draws)
    x = torch.nn.functional.interpolate(small, size=(16, 16), mode="bilinear")
    return x, torch.randn(x.shape, generator=draws)


def gain(x: Tensor, noise: Tensor, coupled: Tensor) -> float:
    """By how much the mean scalar product grew."""
    return ((coupled - noise) * x).flatten(1).sum(1).mean().item()


def total(cost: Tensor, order: Tensor) -> float:
    return cost[torch.arange(len(cost)), order].sum().item()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 191, 192, 397])
@pytest.mark.parametrize(
    "make",
    [
        lambda n, draws: torch.randn(n, n, generator=draws),
        lambda n, draws: torch.zeros(n, n),
        lambda n, draws: torch.randint(0, 3, (n, n), generator=draws).float(),
        lambda n, draws: 1e4 * torch.rand(n, n, generator=draws) ** 8,
        lambda n, draws: torch.outer(torch.arange(n) + 0.0, torch.arange(n) + 0.0),
    ],
    ids=["normal", "zero", "ties", "steep", "product"],
)
def test_every_solver_gives_a_permutation(solver, count, make):
    cost = make(count, seeded(1))
    assert SOLVERS[solver](cost, 0).sort().values.tolist() == list(range(count))


@pytest.mark.parametrize(("solver", "kept"), [("auction", 0.99), ("sinkhorn", 0.9), ("slabs", 0.88)])
def test_rungs_keep_their_share_of_the_exact_gain(solver, kept):
    x, noise = smooth(1536)
    best = gain(x, noise, LinearAssignment()(x, noise))
    coupled = LinearAssignment(solver=solver)(x, noise, generator=seeded(2))
    share = gain(x, noise, coupled) / best
    assert kept < share < 1 - 1e-6


def test_auction_is_within_its_increments_of_the_optimum():
    cost = torch.randn(97, 97, generator=seeded(3))
    excess = total(cost, auction(cost.clone(), 0)) - total(cost, exact(cost.clone(), 0))
    assert 0 <= excess <= 97 * 0.05 * cost.std() + 1e-4


def test_sinkhorn_draws_differ_by_seed_and_follow_the_plan():
    """Two data, two noises: the plan of a cost is known in closed form, and with it how often each pairing is drawn."""
    gap = 0.1
    cost = torch.tensor([[0.0, gap], [gap, 0.0]])
    drawn = [sinkhorn(cost.clone(), seed).tolist() for seed in range(400)]
    # Centred costs are +-gap/2; their standard deviation is gap/sqrt(3), and the temperature a twentieth of that.
    weight = torch.tensor(gap / (0.05 * gap / 3**0.5))
    expected = torch.sigmoid(weight).item()
    assert abs(drawn.count([0, 1]) / 400 - expected) < 0.02
    even = [tuple(sinkhorn(torch.zeros(3, 3), seed).tolist()) for seed in range(1200)]
    assert len(set(even)) == 6
    assert all(150 < even.count(order) < 250 for order in set(even))


def test_slabs_of_one_block_are_exact_and_more_rounds_come_nearer():
    points, others = torch.randn(2, 300, 7, generator=seeded(4))
    cost = -(points @ others.T)
    assert slabs(points, others, 0, block=300).tolist() == exact(cost.clone(), 0).tolist()
    totals = [total(cost, slabs(points, others, 0, block=32, rounds=rounds)) for rounds in range(5)]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == 5


def test_slabs_keep_to_classes():
    x, noise = smooth(300)
    labels = torch.arange(300) % 3
    coupled = LinearAssignment(64, "slabs")(x, noise, labels=labels, generator=seeded(5))
    for label in range(3):
        rows = [set(map(tuple, values[labels == label].flatten(1).tolist())) for values in (coupled, noise)]
        assert rows[0] == rows[1]


@pytest.mark.parametrize("shape", [(40, 100), (100, 40), (3, 8), (1, 8), (5, 1)])
def test_leading_components_are_those_of_the_covariance(shape):
    x = torch.randn(shape, generator=seeded(6)) * torch.arange(1.0, shape[1] + 1) + 5
    found = leading_components(x, 3)
    count = found.shape[1]
    assert 1 <= count <= 3
    torch.testing.assert_close(found.T @ found, torch.eye(count), rtol=0, atol=1e-5)
    if len(x) > 3:
        axes = torch.linalg.eigh(x.T.cov().view(shape[1], shape[1])).eigenvectors.flip(1)[:, :count]
        torch.testing.assert_close((axes * found).sum(0).abs(), torch.ones(count), rtol=0, atol=1e-4)


def test_leading_components_of_data_that_are_all_the_same():
    assert leading_components(torch.ones(9, 4)).shape[1] >= 1


@pytest.mark.parametrize(
    ("method", "count", "device", "solver"),
    [
        (Method("auto"), EXACT_UP_TO, CPU, "exact"),
        (Method("auto"), EXACT_UP_TO + 1, CPU, "slabs"),
        (Method("auto", block=512), 10**5, CPU, "exact"),
        (Method("auto", budget=1e-4), 512, CPU, "slabs"),
        (Method("auto", budget=60.0), 8192, CPU, "exact"),
        (Method("auto", budget=0.5), 4096, CPU, "slabs"),
        (Method("auto", budget=0.5), 4096, GPU, "exact"),
        (Method("auction"), 10**6, CPU, "auction"),
    ],
)
def test_auto_goes_by_size_device_and_budget(method, count, device, solver):
    assert chosen(method, count, 3072, device, lambda: 0.95).solver == solver


def test_auto_cuts_into_blocks_where_the_components_hold_too_little():
    little = lambda: 0.5  # noqa: E731
    assert chosen(Method("auto"), 4096, 3072, CPU, little) == Method("exact", block=1024)
    assert chosen(Method("auto", block=2500), 4096, 3072, CPU, little) == Method("exact", block=1024)
    assert chosen(Method("auto", budget=0.01), 1500, 3072, CPU, little) == Method("exact", block=1024)


@pytest.mark.parametrize(("count", "size"), [(2048, 3072), (10**6, 192)])
def test_auto_measures_nothing_where_size_tells(count, size):
    chosen(Method("auto"), count, size, CPU, None)


def field(count: int, shape: tuple[int, int, int], power: float, seed: int = 7) -> Tensor:
    """Fields with a spectrum of power ``1/f^power``."""
    frequency = torch.cartesian_prod(*(torch.fft.fftfreq(side) for side in shape[1:])).norm(dim=1).view(shape[1:])
    frequency[0, 0] = frequency[0, 1]
    white = torch.fft.fft2(torch.randn(count, *shape, generator=seeded(seed)))
    return torch.fft.ifft2(white * frequency ** (-power / 2)).real


FIELDS = {
    "1/f^2 3x32x32": ((3, 32, 32), 2.0, "blocks of 1024", 0.48),
    "1/f 4x32x32": ((4, 32, 32), 1.0, "blocks of 1024", 0.10),
    "1/f 16x32x32": ((16, 32, 32), 1.0, "blocks of 1024", 0.03),
    "white 1024": ((1, 32, 32), 0.0, "blocks of 1024", 0.19),
    "1/f^4 1x32x32": ((1, 32, 32), 4.0, "slabs", 0.99),
}


@pytest.mark.parametrize("name", ["1/f^2 3x32x32", "white 1024", "1/f^4 1x32x32"])
def test_share_held_is_that_of_data_the_components_were_not_fitted_to(name):
    shape, power, _, share = FIELDS[name]
    x = field(1100, shape, power)
    assert abs(held_share(x.flatten(1)) - share) < 0.02
    assert abs(Leading(x, Ranks(), [1100]).held() - share) < 0.02


def test_data_that_are_all_the_same_are_held_in_full():
    assert held_share(torch.ones(1100, 9)) == Leading(torch.ones(1100, 9), Ranks(), [1100]).held() == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", FIELDS)
def test_auto_keeps_at_least_085_of_the_exact_gain_on_every_field(name, monkeypatch, caplog):
    monkeypatch.setattr(notes, "_noted", set())
    caplog.set_level(logging.INFO, "immiscible.couplings")
    shape, power, taken, share = FIELDS[name]
    x = field(4096, shape, power)
    noise = torch.randn(x.shape, generator=seeded(8))
    coupled = LinearAssignment(solver="auto")(x, noise, generator=seeded(9))
    assert gain(x, noise, coupled) >= 0.85 * gain(x, noise, LinearAssignment()(x, noise))
    said = [message for message in caplog.messages if message.startswith(f"solver auto takes {taken} for 4096 data of")]
    assert len(said) == 1
    assert abs(int(re.findall(r"hold (\d+) %", said[0])[0]) - 100 * share) <= 2


def test_expected_times_grow_as_they_should():
    assert exact_seconds(8192, 3072, CPU) > 4 * exact_seconds(4096, 3072, CPU)
    assert slabs_seconds(16384, 3072, CPU) < 2.01 * slabs_seconds(8192, 3072, CPU)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "hungarian"}, "`solver` must be one of exact, auction, sinkhorn, slabs, auto, got 'hungarian'"),
        ({"goal": "bad"}, "`goal` must be best or worst, got 'bad'"),
        ({"temperature": -0.1}, "`temperature` must be a finite number of at least 0, got -0.1"),
        ({"temperature": True}, "`temperature` must be a finite number of at least 0, got True"),
        (
            {"temperature": 1, "solver": "auto"},
            "`temperature` is for solver exact, auction, sinkhorn, got it with 'auto'",
        ),
        ({"pool": "world"}, "`pool` must be batch or global, got 'world'"),
        ({"budget": 1.0}, "`budget` is for solver=\"auto\", got it with 'exact'"),
        ({"solver": "auto", "budget": 0}, "`budget` must be None or a positive number of seconds, got 0"),
        ({"group": object()}, '`group` is for pool="global"'),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings, message):
    with pytest.raises(InputError) as caught:
        LinearAssignment(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
