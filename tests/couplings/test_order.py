"""The permutation that a coupling makes of the noise, as a result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import immiscible
from immiscible import KNN, CostSpace, InputError, InSpace, LinearAssignment, Mixed, Pool, permutation

SIZE = 97
PERMUTING = {
    "independent": immiscible.Independent(),
    "assignment": LinearAssignment(),
    "blocks": LinearAssignment(block=8),
    "auction": LinearAssignment(solver="auction"),
    "sinkhorn": LinearAssignment(solver="sinkhorn"),
    "slabs": LinearAssignment(solver="slabs", block=8),
    "worst": LinearAssignment(goal="worst"),
    "entropic": LinearAssignment(temperature=0.5),
    "global": LinearAssignment(pool="global"),
    "mixed": Mixed(LinearAssignment(block=8), 0.5),
    "mixed never": Mixed(LinearAssignment(), 0),
    "centred": InSpace(LinearAssignment(), CostSpace(centre=torch.tensor(0.5), scale=torch.tensor(2.0))),
    "all of them": Mixed(InSpace(Mixed(LinearAssignment(block=8), 0.7), CostSpace(scale=torch.tensor(3.0))), 0.9),
}


def batch(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("name", PERMUTING)
def test_the_noise_at_the_permutation_is_the_coupled_noise(name: str, labelled: bool) -> None:
    x, noise = batch(SIZE, 3, 5)
    coupling, labels = PERMUTING[name], torch.arange(SIZE) % 3 if labelled else None
    for seed in range(3):
        coupled = coupling(x, noise, labels=labels, generator=torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(seed)
        index = permutation(coupling, x, noise, labels=labels, generator=generator)
        assert index.dtype == torch.int64
        torch.testing.assert_close(index.sort().values, torch.arange(SIZE))
        torch.testing.assert_close(noise[index], coupled, rtol=0, atol=0)
        if labels is not None:
            torch.testing.assert_close(labels[index], labels)


def test_spellings_are_taken_and_only_those_that_couple_move_anything() -> None:
    x, noise = batch(SIZE, 5)
    index = permutation("assignment", x, noise)
    torch.testing.assert_close(noise[index], LinearAssignment()(x, noise), rtol=0, atol=0)
    assert not index.equal(torch.arange(SIZE))
    torch.testing.assert_close(permutation("independent", x, noise), torch.arange(SIZE))
    torch.testing.assert_close(permutation("assignment@0", x, noise), torch.arange(SIZE))


@pytest.mark.parametrize(
    ("coupling", "given"),
    [
        (KNN(8), "got knn:8, which changes them"),
        (Mixed(KNN(8), 0.5), "got knn:8"),
        (
            InSpace(LinearAssignment(), CostSpace(pool=2)),
            "got assignment, which changes them: .* the space of the data",
        ),
        (InSpace(LinearAssignment(), CostSpace(basis=torch.eye(75)[:4])), "got assignment"),
        (lambda x, noise, **_: noise.flip(0), "got <lambda>"),
    ],
    ids=["knn", "mixed knn", "cells", "basis", "function"],
)
def test_couplings_that_change_noise_have_no_permutation(coupling: immiscible.Coupling, given: str) -> None:
    x, noise = batch(SIZE, 3, 5, 5)
    with pytest.raises(InputError, match=f"must be of a coupling that moves whole noises, {given}") as caught:
        permutation(coupling, x, noise)
    assert "\n" not in str(caught.value)


def test_noise_of_other_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x, noise = batch(SIZE, 5)
    monkeypatch.setattr(
        LinearAssignment, "ranks", lambda self: immiscible.couplings.distributed.ranks.Ranks(None, 0, 2)
    )
    with pytest.raises(InputError, match='gives noise of other ranks: take pool="batch"'):
        permutation("assignment:global", x, noise)


def test_wrong_input_is_refused_as_by_the_coupling() -> None:
    x, noise = batch(SIZE, 5)
    for coupling in ("independent", "assignment", "assignment@0.5"):
        with pytest.raises(InputError, match="must have the same shape"):
            permutation(coupling, x, noise[:4])
    with pytest.raises(InputError, match="unknown coupling"):
        permutation("nearest", x, noise)


def test_pools_have_none() -> None:
    with pytest.raises(InputError, match="moves whole noises"):
        permutation(Pool(LinearAssignment(), 8), *batch(SIZE, 5))  # pyright: ignore[reportArgumentType]
