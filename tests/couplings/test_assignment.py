"""The assignment is the best there is, inside whatever groups it is asked to stay."""

from __future__ import annotations

import itertools
import sys
import warnings
from types import ModuleType

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from immiscible import InputError, LinearAssignment, assign
from immiscible.couplings.assignment import SEEDS
from immiscible.couplings.distributed.solve import _groups
from immiscible.couplings.solvers import dense as solvers
from immiscible.couplings.solvers.dense import jonker_volgenant


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int, *dims: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    return torch.randn(n, *dims, generator=generator), torch.randn(n, *dims, generator=generator)


def squared_distance(x: Tensor, noise: Tensor) -> float:
    return (x.double() - noise.double()).square().sum().item()


def as_rows(noise: Tensor) -> list[tuple[float, ...]]:
    return sorted(map(tuple, noise.flatten(1).tolist()))


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", range(1, 7))
def test_no_permutation_is_better(n, seed):
    x, noise = batch(n, 2, 3, seed=seed)
    least = min(squared_distance(x, noise[list(order)]) for order in itertools.permutations(range(n)))
    coupled = LinearAssignment()(x, noise)
    assert squared_distance(x, coupled) == pytest.approx(least, rel=1e-6)
    assert as_rows(coupled) == as_rows(noise)


DATA = {
    "normal": lambda x: x,
    "a strong common mean": lambda x: x + 100,
    "an outlier": lambda x: x * torch.ones(len(x), 1).index_fill_(0, torch.tensor([1]), 1e4),
    "lengths of many magnitudes": lambda x: x * (3 * x[:, :1]).exp(),
    "duplicate rows": lambda x: x[torch.arange(len(x)) % 5],
    "nearly all zero": lambda x: x * (torch.arange(len(x)) % 50 == 0)[:, None],
    "all equal": lambda x: x[:1].expand_as(x),
    "all zero": torch.zeros_like,
}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("n", [7, 101, 191, 192, 397])
def test_total_is_that_of_scipy(n, data):
    x, noise = batch(n, 19)
    x = DATA[data](x)
    coupled = LinearAssignment()(x, noise)
    assert as_rows(coupled) == as_rows(noise)
    # What all data share changes no order, but would hide an error.
    centred = (x - x.mean(0)).double()
    _, best = linear_sum_assignment(-(centred @ noise.double().T).numpy())
    expected = (centred * noise[best]).sum().item()
    assert (centred * coupled).sum().item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_kernel_of_the_warm_start_does_not_vanish_beside_outliers():
    signs = (torch.arange(800.0) % 2 * 2 - 1)[:, None]
    noise = torch.randn(800, 1, generator=seeded(1))
    # Every datum prefers one of these by more than float32 exponentials can tell.
    noise[:4] = 1e4 * signs[:4]
    assert solvers.reduce(-(signs @ noise.T)).isfinite().all()
    best = noise.squeeze(1).sort().values
    expected = (best[400:].sum() - best[:400].sum()).item()
    assert (signs * LinearAssignment()(signs, noise)).sum().item() == pytest.approx(expected, rel=1e-5)


def test_total_is_that_of_pot():
    x, noise = batch(83, 3, 5)
    cost = torch.cdist(x.flatten(1).double(), noise.flatten(1).double()).square().numpy()
    plan = ot.emd(np.full(83, 1 / 83), np.full(83, 1 / 83), cost)
    assert squared_distance(x, LinearAssignment()(x, noise)) == pytest.approx(83 * (plan * cost).sum(), rel=1e-5)


def test_warm_start_changes_the_time_alone(monkeypatch):
    x, noise = batch(397, 3, 5)
    warm = LinearAssignment()(x, noise)
    monkeypatch.setattr(solvers, "WARM_FROM", 10**9)
    assert_same(LinearAssignment()(x, noise), warm)


@pytest.mark.parametrize("seed", range(20))
def test_warm_start_of_tiny_problems_is_exact(monkeypatch, seed):
    monkeypatch.setattr(solvers, "WARM_FROM", 2)
    x, noise = batch(5, 3, seed=seed)
    least = min(squared_distance(x, noise[list(order)]) for order in itertools.permutations(range(5)))
    assert squared_distance(x, LinearAssignment()(x, noise)) == pytest.approx(least, rel=1e-6)


def test_warm_start_leaves_little_to_reduce():
    x, noise = batch(256, 3, 5)
    reduced = solvers.reduce(-(x.flatten(1) @ noise.flatten(1).T))
    assert reduced.amin() >= 0
    assert_same(reduced.amin(1), torch.zeros(256))
    # A dual bound close to the optimum: what the best pairs still cost is little.
    best = assign(reduced)
    assert reduced[torch.arange(256), best].mean() < 0.05 * reduced.mean()


def test_order_of_data_and_noise_does_not_matter():
    x, noise = batch(97, 3, 5)
    coupled = LinearAssignment()(x, noise)
    order, other = torch.randperm(97, generator=seeded(1)), torch.randperm(97, generator=seeded(2))
    assert_same(LinearAssignment()(x[order], noise[other]), coupled[order])


def test_common_shift_and_scale_of_the_data_do_not_matter():
    x, noise = batch(97, 3, 5)
    coupled = LinearAssignment()(x, noise)
    assert_same(LinearAssignment()(x + torch.randn(3, 5, generator=seeded(1)), noise), coupled)
    assert_same(LinearAssignment()(3 * x, noise), coupled)


def test_assignment_repeated_moves_nothing():
    x, noise = batch(97, 3, 5)
    coupled = LinearAssignment()(x, noise)
    assert_same(LinearAssignment()(x, coupled), coupled)


def test_batch_of_one_keeps_its_noise():
    x, noise = batch(1, 3, 5)
    assert_same(LinearAssignment()(x, noise), noise)


def test_one_dimension_sorts():
    x, noise = batch(31)
    assert_same(LinearAssignment()(x, noise)[x.argsort()], noise.sort().values)


LABELS = {
    "three classes": torch.arange(97) % 3,
    "negative and far apart": torch.tensor([-(2**40), 7, 2**40])[torch.arange(97) % 3],
    "singletons": torch.randperm(97, generator=seeded(9)).clamp_min(90),
    "bool": torch.arange(97) % 2 == 0,
    "uint8": (torch.arange(97) % 5 + 250).to(torch.uint8),
    "int8": (torch.arange(97) % 5 - 128).to(torch.int8),
    "int16": (torch.arange(97) % 5).short(),
    "int32": (torch.arange(97) % 5).int(),
    "uint16": (torch.arange(97) % 5).to(torch.uint16),
    "uint64": (torch.arange(97) % 5).to(torch.uint64),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_solve_each_class_alone(kind):
    labels = LABELS[kind]
    x, noise = batch(97, 3, 5)
    coupled = LinearAssignment()(x, noise, labels=labels)
    for label in sorted(set(labels.tolist())):
        members = torch.tensor([other == label for other in labels.tolist()])
        assert as_rows(coupled[members]) == as_rows(noise[members])
        assert_same(coupled[members], LinearAssignment()(x[members], noise[members]))


def test_labels_all_different_move_nothing():
    x, noise = batch(97, 3, 5)
    assert_same(LinearAssignment()(x, noise, labels=torch.randperm(97, generator=seeded(1))), noise)


def test_labels_all_equal_change_nothing():
    x, noise = batch(97, 3, 5)
    assert_same(LinearAssignment()(x, noise, labels=torch.full((97,), 4)), LinearAssignment()(x, noise))


def test_names_of_the_classes_do_not_matter():
    x, noise = batch(97, 3, 5)
    labels, names = torch.arange(97) % 3, torch.tensor([5, -1, 2])
    assert_same(
        LinearAssignment()(x, noise, labels=names[labels]),
        LinearAssignment()(x, noise, labels=labels),
    )


@pytest.mark.parametrize("block", [2, 3, 10, 32])
@pytest.mark.parametrize("labelled", [False, True])
def test_blocks_are_small_random_and_within_classes(block, labelled):
    labels = torch.arange(97) % 3 if labelled else None
    groups = _groups(97, labels, block, 1)
    assert torch.cat(groups).sort().values.tolist() == list(range(97))
    assert max(map(len, groups)) <= block
    if labelled:
        assert all(len(set((group % 3).tolist())) == 1 for group in groups)
    assert not torch.cat(groups).equal(torch.cat(_groups(97, labels, block, 2)))


def test_no_more_blocks_than_needed():
    assert [len(_groups(97, None, block)) for block in (2, 10, 32, 33, 48, 49, 96)] == [
        49, 10, 4, 3, 3, 2, 2,
    ]  # fmt: skip


@pytest.mark.parametrize("labels", [None, torch.arange(97) % 3], ids=["all", "classes"])
def test_blocks_solve_each_of_them(labels):
    x, noise = batch(97, 3, 5)
    coupled = LinearAssignment(block=10)(x, noise, labels=labels, generator=seeded(3))
    drawn = int(torch.randint(SEEDS, (1,), generator=seeded(3)))
    for group in _groups(97, labels, 10, drawn):
        assert_same(coupled[group], LinearAssignment()(x[group], noise[group]))


@pytest.mark.parametrize("block", [97, 98, 10**9])
def test_block_as_large_as_the_batch_is_exact_and_draws_nothing(block):
    x, noise = batch(97, 3, 5)
    generator = seeded(3)
    assert_same(LinearAssignment(block=block)(x, noise, generator=generator), LinearAssignment()(x, noise))
    assert_same(generator.get_state(), seeded(3).get_state())


def test_larger_blocks_come_nearer_to_the_best():
    x, noise = batch(240, 3, 5)
    totals = [squared_distance(x, LinearAssignment(n)(x, noise, generator=seeded(3))) for n in (2, 8, 30, 120, None)]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] < squared_distance(x, noise)


@pytest.mark.parametrize("block", [0, 1, -3, 2.5, True, "4"])
def test_block_below_two_or_no_whole_number_is_refused(block):
    with pytest.raises(InputError, match=r"^`block` must be None or a whole number of at least 2, got .*\.$"):
        LinearAssignment(block=block)


COSTS = {
    "normal": torch.randn(211, 211, generator=seeded(4)),
    "uniform": torch.rand(211, 211, generator=seeded(5)),
    "whole numbers with ties": torch.randint(0, 5, (211, 211), generator=seeded(6)),
    "constant": torch.full((211, 211), 3.0),
    "negative": -torch.rand(37, 37, generator=seeded(7)),
    "large": 1e30 * torch.rand(37, 37, generator=seeded(7)),
    "small": 1e-30 * torch.rand(211, 211, generator=seeded(7)),
    "half precision": torch.rand(37, 37, generator=seeded(7)).half(),
    "a steep product": torch.outer(torch.arange(199.0) ** 2, torch.arange(199.0) ** 2),
    "a steep valley": (torch.arange(199.0)[:, None] - torch.arange(199.0)).double() ** 4,
    "many magnitudes": (5 * torch.randn(211, 211, generator=seeded(8))).exp(),
    "whole": torch.randint(-9, 9, (37, 37), generator=seeded(8)),
    "one": torch.ones(1, 1),
}


@pytest.mark.parametrize("kind", COSTS)
def test_assign_reaches_the_least_cost(kind):
    cost = COSTS[kind]
    kept = cost.clone()
    order = assign(cost)
    assert_same(cost, kept)
    assert (order.shape, order.dtype) == (cost.shape[:1], torch.int64)
    assert order.sort().values.tolist() == list(range(len(cost)))
    exact = cost.double()
    rows, columns = linear_sum_assignment(exact.numpy())
    reached = exact[torch.arange(len(cost)), order].sum().item()
    assert reached == pytest.approx(exact[rows, columns].sum().item(), rel=1e-5)


@pytest.mark.parametrize("count", [50, 300])
@pytest.mark.parametrize("forbidden", [1e3, 1e8, 1e13, 1e15, 1e18, 1e30])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_assign_is_exact_beside_forbidden_pairs(count, forbidden, scale):
    draws = seeded(9)
    cost = scale * torch.rand(count, count, generator=draws, dtype=torch.float64)
    cost[(torch.rand(count, count, generator=draws) < 0.5).fill_diagonal_(False)] = forbidden
    best = cost.numpy()[linear_sum_assignment(cost.numpy())].sum()
    assert cost[torch.arange(count), assign(cost)].sum().item() == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("count", [3, 40, 250])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e9, 1e30])
@pytest.mark.parametrize("offset", [0.0, -0.5, -1.0, 1e6])
@pytest.mark.parametrize("kind", ["normal", "whole", "ties", "constant"])
def test_assign_reaches_the_least_cost_at_any_scale(count, scale, offset, kind):
    draws = seeded(10)
    cost = {
        "normal": torch.randn(count, count, generator=draws, dtype=torch.float64),
        "whole": torch.randint(-1000, 1000, (count, count), generator=draws).double(),
        "ties": torch.randint(0, 2, (count, count), generator=draws).double(),
        "constant": torch.ones(count, count, dtype=torch.float64),
    }[kind]
    cost = (cost + offset) * scale
    best = cost.numpy()[linear_sum_assignment(cost.numpy())].sum()
    # Relative to what was added up, which may cancel.
    tolerance = 1e-12 * cost.abs().amax().item() * count
    assert cost[torch.arange(count), assign(cost)].sum().item() == pytest.approx(best, abs=tolerance)


def test_assign_takes_costs_that_require_grad_and_autocast():
    cost = torch.randn(211, 211, generator=seeded(4))
    expected = assign(cost)
    assert_same(assign(cost.clone().requires_grad_()), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(assign(cost), expected)


def test_assign_of_nothing_is_nothing():
    assert assign(torch.zeros(0, 0)).shape == (0,)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (torch.zeros(3, 4), r"`cost` must be square, got shape \(3, 4\)\."),
        (torch.zeros(3), r"`cost` must be square, got shape \(3,\)\."),
        (torch.zeros(2, 3, 3), r"`cost` must be square, got shape \(2, 3, 3\)\."),
        (torch.tensor([[torch.nan]]), "`cost` must be finite, got NaN"),
        (torch.tensor([[1.0, torch.inf], [1.0, 1.0]]), "`cost` must be finite"),
        (torch.tensor([[1e300]], dtype=torch.float64), "too large for float32"),
    ],
)
def test_assign_refuses_what_is_not_square_or_finite(cost, message):
    with pytest.raises(InputError, match=message) as caught:
        assign(cost)
    assert "\n" not in str(caught.value)


@pytest.fixture
def without_lapjvr(monkeypatch):
    """Another package provides the module `lap`, and its solver is looked for anew, before and after the test."""
    monkeypatch.setattr(solvers, "lap", ModuleType("lap"))
    jonker_volgenant.cache_clear()
    yield
    jonker_volgenant.cache_clear()


@pytest.mark.usefixtures("without_lapjvr")
def test_scipy_solves_where_lap_is_another_package_and_one_warning_names_the_fix():
    x, noise = batch(211, 3, 5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        coupled = [LinearAssignment()(x, noise) for _ in range(2)]
    (warning,) = caught
    assert warning.category is UserWarning
    assert "has no `lapjvr`" in str(warning.message)
    assert "`pip uninstall lap` and then `pip install --force-reinstall lapx`" in str(warning.message)
    assert "\n" not in str(warning.message)
    _, best = linear_sum_assignment(-(x.flatten(1).double() @ noise.flatten(1).double().T).numpy())
    assert_same(coupled[0], noise[best])
    assert_same(coupled[1], noise[best])


@pytest.mark.usefixtures("without_lapjvr")
def test_without_any_solver_the_error_names_the_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(InputError, match=r"`lap` must be lapx's.*force-reinstall lapx"):
        LinearAssignment()(*batch(5, 3))


def test_lapx_solves_without_a_warning():
    jonker_volgenant.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LinearAssignment()(*batch(5, 3))
