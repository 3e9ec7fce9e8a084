"""What couplings say once in the log: what does nothing, and what is not for the noise at hand."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from immiscible import KNN, CostSpace, InSpace, LinearAssignment, Mixed, Pool
from immiscible.couplings import log as notes
from immiscible.couplings.distributed.ranks import leave_untold
from immiscible.couplings.protocol import normal_bounds


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Gives what was noted, in a process that had noted nothing before."""
    monkeypatch.setattr(notes, "_noted", set())
    caplog.set_level(logging.WARNING, "immiscible.couplings")
    return lambda: [record.getMessage() for record in caplog.records]


def batch(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


SINGLE = "an assignment of one datum, or of one datum in each class, leaves all noise as it is drawn: pair more"


@pytest.mark.parametrize(
    "coupling", [LinearAssignment(), LinearAssignment(solver="auto"), Mixed(LinearAssignment(), 1)]
)
def test_an_assignment_of_one_datum_is_told_once(coupling, told) -> None:
    for _ in range(3):
        coupling(*batch(1, 5))
    assert [line.startswith(SINGLE) for line in told()] == [True]


def test_classes_with_one_member_each_are_told(told) -> None:
    LinearAssignment()(*batch(7, 5), labels=torch.arange(7))
    assert [line.startswith(SINGLE) for line in told()] == [True]


def test_pools_of_one_datum_are_told(told) -> None:
    list(Pool(LinearAssignment(), size=1)(torch.randn(3, 1, 5)))
    assert [line.startswith(SINGLE) for line in told()] == [True]


def test_data_that_are_alone_in_their_shape_are_told_of_once(told) -> None:
    for _ in range(2):
        list(Pool(LinearAssignment(), 20)([torch.randn(1, 2, size) for size in (3, 4, 5, 6, 6)]))
    assert told() == [
        "3 of 5 data are alone in their class or shape, and keep their noise as it is drawn: pair more at once with "
        "immiscible.Pool, or take KNN(k=4), which needs no batch."
    ]


def test_data_that_are_alone_in_their_class_are_told_of(told) -> None:
    LinearAssignment()(*batch(7, 5), labels=torch.arange(7) % 6)
    assert [line.startswith("5 of 7 data are alone in their class or shape") for line in told()] == [True]


def test_buckets_are_no_mistake(told) -> None:
    list(Pool(LinearAssignment(), 20)([torch.randn(2, 2, size) for size in (3, 4, 3, 5)]))
    assert told() == []


def test_a_small_batch_at_the_end_is_no_mistake(told) -> None:
    LinearAssignment()(*batch(7, 5), labels=torch.arange(7) % 5)
    LinearAssignment()(*batch(1, 5))
    LinearAssignment()(*batch(2, 5), labels=torch.arange(2))
    assert told() == []


def test_commands_that_say_it_themselves_leave_it_untold(told) -> None:
    leave_untold()
    LinearAssignment()(*batch(1, 5))
    assert told() == []


NORMAL_ONLY = {
    "knn": KNN(4),
    "knn dot": KNN(2.5, "dot"),
    "coarse": InSpace(LinearAssignment(), CostSpace(basis=torch.eye(48)[:24])),
    "cells": InSpace(KNN(4), CostSpace(pool=2)),
}


@pytest.mark.parametrize("name", NORMAL_ONLY)
def test_noise_that_is_not_normal_is_told_once(name: str, told) -> None:
    x, noise = batch(64, 3, 4, 4)
    for _ in range(2):
        NORMAL_ONLY[name](x, 0.55 * noise)
    (line,) = told()
    assert " is for standard normal noise, whose E|n|^2/D is 1, got noise with 0.3" in line
    assert "between two data sets take LinearAssignment" in line


@pytest.mark.parametrize("coupling", [LinearAssignment(), KNN(1), InSpace(LinearAssignment(), CostSpace())])
def test_couplings_that_take_any_noise_say_nothing_of_it(coupling, told) -> None:
    coupling(*(10 * tensor for tensor in batch(64, 48)))
    assert told() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_normal_noise_is_taken_without_a_word(dtype: torch.dtype, told) -> None:
    for seed in range(50):
        for shape in ((1,), (3, 1), (2, 2), (5, 3, 4, 4)):
            x, noise = batch(*shape, seed=seed)
            KNN(4)(x, noise.to(dtype))
    assert told() == []


@pytest.mark.parametrize("count", [1, 2, 3, 7, 48, 3072, 10**6])
def test_bounds_are_too_wide_for_normal_noise_to_leave_and_close_for_much_of_it(count: int) -> None:
    least, most = normal_bounds(count)
    assert chi2.cdf(least, count) + chi2.sf(most, count) < 1e-16
    assert most < count + 12.7 * count**0.5 + 81
