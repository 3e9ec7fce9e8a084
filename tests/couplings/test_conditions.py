"""Conditions in the cost: which weight is found, what it keeps apart, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import immiscible
from immiscible import KNN, ConditionSpace, InputError, InSpace, LinearAssignment, Mixed, Pool, Reservoir
from immiscible.couplings import conditions
from immiscible.couplings.conditions import weight_of
from immiscible.couplings.spaces import Accompanied, Conditional, Space, given, parse_space

SHAPE = (3, 4)


def examples(count: int, seed: int = 0, numbers: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Data that follow their condition, noise, and conditions of one length."""
    draws = torch.Generator().manual_seed(seed)
    condition = torch.nn.functional.normalize(torch.randn(count, numbers, generator=draws))
    x = condition @ torch.randn(numbers, 12, generator=torch.Generator().manual_seed(9)) + 1
    x = x + torch.randn(count, 12, generator=draws)
    return x.view(count, *SHAPE), torch.randn(count, *SHAPE, generator=draws), condition


def classes(count: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) * 7 % 4
    return labels, torch.nn.functional.one_hot(labels).float()


def cost(x: Tensor, noise: Tensor, condition: Tensor, weight: float) -> Tensor:
    """That of the paper, term by term."""
    apart = (condition[:, None] - condition).double().square().sum(2)
    return (x.flatten(1)[:, None] - noise.flatten(1)).double().square().sum(2) + weight * apart


@pytest.mark.parametrize("weight", [0.0, 0.7, 20.0])
def test_assignment_is_the_best_of_all_for_the_cost_of_the_paper(weight: float) -> None:
    x, noise, condition = examples(6)
    expected = cost(x, noise, condition, weight)
    best = min(itertools.permutations(range(6)), key=lambda order: float(expected[range(6), order].sum()))
    coupled = LinearAssignment()(x, noise, condition=condition, condition_weight=weight)
    torch.testing.assert_close(coupled, noise[list(best)], rtol=0, atol=0)


def test_one_hot_conditions_and_a_large_weight_are_the_assignment_within_classes() -> None:
    x, noise, _ = examples(200)
    labels, condition = classes(200)
    expected = LinearAssignment()(x, noise, labels=labels)
    assert not LinearAssignment()(x, noise).equal(expected)
    # Of four classes a quarter of the pairs can never be kept apart, which is more than a twentieth.
    space = ConditionSpace.fit(x, condition, share=0.95).given(condition)
    for coupled in (
        LinearAssignment()(x, noise, condition=condition, condition_weight=1e4),
        InSpace(LinearAssignment(), space)(x, noise),
    ):
        torch.testing.assert_close(coupled, expected, rtol=0, atol=0)
    order = immiscible.permutation(InSpace(LinearAssignment(), space), x, noise)
    torch.testing.assert_close(order, immiscible.permutation("assignment", x, noise, labels=labels), rtol=0, atol=0)


@pytest.mark.parametrize("share", [0.6, 0.8, 0.99])
def test_weight_keeps_that_share_of_the_pairs_apart(share: float) -> None:
    x, noise, condition = examples(60)
    x = x - x.mean(0)
    weight = weight_of(x.flatten(1), noise.flatten(1), condition, share)
    kept = lambda value: (  # noqa: E731 (as in the paper)
        cost(x, noise, condition, value) > cost(x, noise, condition, 0.0).diagonal()[:, None]
    )
    pairs = 60 * 59
    least = -(-share * pairs // 1)
    assert int(kept(weight * 1.0001).sum()) >= least
    assert int(kept(weight * 0.9999).sum()) < least
    # Whatever the unit of the condition, what is paired is the same.
    assert weight_of(x.flatten(1), noise.flatten(1), 10 * condition, share) == pytest.approx(weight / 100)


def test_nothing_is_kept_apart_beyond_what_noise_does_itself() -> None:
    x, noise, condition = examples(60)
    assert weight_of(x.flatten(1), noise.flatten(1), condition, 0.2) == 0
    assert weight_of(x.flatten(1), noise.flatten(1), torch.ones(60, 2), 0.9) == 0
    torch.testing.assert_close(
        LinearAssignment()(x, noise, condition=torch.ones(60, 2)), LinearAssignment()(x, noise), rtol=0, atol=0
    )


def test_a_weight_that_is_not_given_is_found_in_the_batch() -> None:
    x, noise, condition = examples(80)
    weight = weight_of((x - x.mean(0)).flatten(1), noise.flatten(1), condition)
    torch.testing.assert_close(
        LinearAssignment()(x, noise, condition=condition),
        LinearAssignment()(x, noise, condition=condition, condition_weight=weight),
        rtol=0,
        atol=0,
    )


def test_fitted_weight_is_that_of_all_data_however_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "SAMPLE", 320)
    x, _, condition = examples(640)
    whole = ConditionSpace.fit(x, condition)

    class Chunks:
        def pairs(self) -> list[tuple[Tensor, Tensor]]:
            return list(zip(x.split(150), condition.split(150), strict=True))

    for other in (ConditionSpace.fit(Chunks()), parse_space("condition")(Chunks())):  # pyright: ignore[reportArgumentType]
        for name, tensor in whole.tensors().items():
            torch.testing.assert_close(other.tensors()[name], tensor, rtol=1e-6, atol=1e-6)
    strict = parse_space("condition:0.95")(Chunks())  # pyright: ignore[reportArgumentType]
    assert strict.tensors()["weight"] > 1.2 * whole.weight
    monkeypatch.setattr(conditions, "SAMPLE", 80)
    # Every fourth of them.
    few = ConditionSpace.fit(Chunks())
    torch.testing.assert_close(few.weight, whole.weight, rtol=0.2, atol=0)
    torch.testing.assert_close(few.weight, ConditionSpace.fit(x[::4], condition[::4]).weight, rtol=2e-2, atol=0)


def test_it_is_a_space_with_something_beside() -> None:
    x, _, condition = examples(40)
    space = ConditionSpace.fit(x, condition)
    assert isinstance(space, Space)
    assert isinstance(space, Conditional)
    assert isinstance(space, Accompanied)
    torch.testing.assert_close(space.to("cpu").tensors(), space.tensors())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "coupling", [LinearAssignment(), LinearAssignment(8), LinearAssignment(8, "slabs"), Mixed(LinearAssignment(), 0.5)]
)
def test_noise_is_moved_as_it_is(coupling: Any, dtype: torch.dtype) -> None:
    x, noise, condition = examples(40)
    noise = noise.to(dtype)
    coupled = InSpace(coupling, ConditionSpace.fit(x, condition).given(condition))(x.to(dtype), noise)
    assert coupled.dtype == dtype
    torch.testing.assert_close(coupled.flatten(1).unique(dim=0), noise.flatten(1).unique(dim=0), rtol=0, atol=0)


def test_condition_reaches_the_space_through_what_is_around_it() -> None:
    x, noise, condition = examples(32)
    space = ConditionSpace.fit(x, condition)
    outside = given(Mixed(InSpace(LinearAssignment(), space), 1.0), condition)
    expected = LinearAssignment()(x, noise, condition=condition, condition_weight=float(space.weight))
    torch.testing.assert_close(outside(x, noise), expected, rtol=0, atol=0)


X, NOISE, CONDITION = examples(40)
FITTED = ConditionSpace.fit(X, CONDITION)
COUPLED = LinearAssignment()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: ConditionSpace.fit(X), "cost space condition needs a continuous condition of each datum"),
        (lambda: ConditionSpace.fit(X, CONDITION, share=1.0), "`share` must be between 0 and 1, got 1.0"),
        (lambda: FITTED.given(None), "condition needs the condition of each datum of a batch, got none"),
        (lambda: FITTED.given(CONDITION[:, :4]), "must have 5 numbers for each datum"),
        (lambda: FITTED.given(CONDITION[:3]).ranked(X), "must have a row for each of 40 data, got 3"),
        (lambda: FITTED.ranked(X[:, :2]), "`x` must have shape .* \\(3, 4\\), .* got \\(40, 2, 4\\)"),
        (lambda: InSpace(COUPLED, FITTED)(X, NOISE), "condition needs the condition of each datum of a batch"),
        (lambda: InSpace(KNN(4), FITTED), "condition is for assignments, which move noise .* got knn:4: take residual"),
        (lambda: InSpace(Mixed(Reservoir(4), 0.5), FITTED), "for assignments, .* got reservoir:4"),
        (lambda: InSpace(LinearAssignment(goal="worst"), FITTED), "to the nearest, got goal='worst'"),
        (lambda: LinearAssignment(goal="worst")(X, NOISE, condition=CONDITION), "to the nearest"),
        (lambda: COUPLED(X, NOISE, condition=CONDITION[:3]), "must have a row for each of 40 data, got 3"),
        (lambda: COUPLED(X, NOISE, condition=CONDITION.long()), "`condition` must have a real floating dtype"),
        (lambda: COUPLED(X, NOISE, condition=CONDITION / 0), "`condition` must be finite"),
        (lambda: COUPLED(X, NOISE[:3], condition=CONDITION), "`x` and `noise` must have the same shape"),
        (
            lambda: COUPLED(X, NOISE, condition=CONDITION, condition_weight=-1.0),
            "`condition_weight` must be a finite number of at least 0, got -1.0",
        ),
        (
            lambda: next(iter(Pool(InSpace(COUPLED, FITTED), 40, background=False)(list(X.split(20))))),
            "condition needs the condition of each datum of a batch, got none",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(call: Any, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        call()
    assert "\n" not in str(caught.value)
