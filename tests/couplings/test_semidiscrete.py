"""The semidiscrete sampler: which datum a noise belongs to, both marginals, and where it goes on."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from immiscible import InputError, Potentials, SemidiscreteSampler, fit_potentials, noise_from
from immiscible.couplings.distributed.ranks import Ranks

SHAPE = (2, 3)
X = 1.5 * torch.randn(24, *SHAPE, generator=torch.Generator().manual_seed(0)) + 2
LABELS = torch.tensor([3, 8, 8]).repeat(8)
KINDS = ["all", "classes", "along"]


@functools.cache
def fitted(kind: str = "all") -> Potentials:
    if kind == "classes":
        return fit_potentials(X, labels=LABELS, steps=300)
    return fit_potentials(X, steps=300) if kind == "all" else fit_potentials(X, rank=4, steps=600)


def drawn(potentials: Potentials, length: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """The indices and the noises of an epoch."""
    index, found = zip(*SemidiscreteSampler(potentials, seed, length=length), strict=True)
    return torch.tensor(index), torch.stack([noise_from(seed, SHAPE) for seed in found])


@pytest.mark.parametrize("kind", KINDS)
def test_data_are_drawn_equally_often_and_noise_is_normal(kind: str) -> None:
    index, noise = drawn(fitted(kind), 2400)
    counts = torch.bincount(index, minlength=24)
    assert chisquare(counts.numpy()).pvalue > 1e-3
    assert fitted(kind).chi2 < 2
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    for label in (3, 8) if kind == "classes" else ():
        own = noise[LABELS[index] == label].flatten(1)
        assert kstest(own.flatten().numpy(), "norm").pvalue > 1e-3
        assert float(own.mean(0).square().sum()) < 30 / len(own)


def test_data_are_not_drawn_equally_often_without_potentials() -> None:
    untold = Potentials.of(fitted().tensors() | {"potentials": torch.zeros(24)})
    assert chisquare(torch.bincount(drawn(untold, 2400)[0], minlength=24).numpy()).pvalue < 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_each_noise_lies_in_the_cell_of_its_datum(kind: str) -> None:
    index, noise = drawn(fitted(kind), 200)
    points = (X - X.mean(0)).flatten(1).double()
    if kind == "along":
        basis = fitted(kind).basis
        points = points @ basis.T.double() @ basis.double()
    scores = noise.flatten(1).double() @ points.T + fitted(kind).potentials.double()
    if kind == "classes":
        scores[LABELS[index][:, None] != LABELS] = -torch.inf
    torch.testing.assert_close(scores.argmax(1), index)
    # And lies nearer to it than other noise does.
    assert float((points[index] * noise.flatten(1)).sum(1).mean()) > 1


def test_processes_share_an_epoch_as_one_would_draw_it() -> None:
    whole = list(SemidiscreteSampler(fitted(), 5, length=30))
    parts = [list(SemidiscreteSampler(fitted(), 5, length=30, ranks=Ranks(None, rank, 2))) for rank in range(2)]
    assert list(itertools.chain(*zip(*parts, strict=True))) == whole
    assert {seed for _, seed in parts[0]}.isdisjoint({seed for _, seed in parts[1]})
    # What does not divide is drawn once more, not left out.
    assert len(SemidiscreteSampler(fitted(), 5, length=31, ranks=Ranks(None, 1, 2))) == 16


class Images(Dataset[Any]):
    """Data with their noise, as a worker makes them."""

    def __getitem__(self, drawn: tuple[int, int]) -> tuple[Tensor, Tensor]:
        index, seed = drawn
        return X[index], noise_from(seed, SHAPE)


@pytest.mark.parametrize("workers", [0, 1])
def test_resumes_in_the_middle_of_an_epoch(workers: int) -> None:
    def loader(sampler: SemidiscreteSampler) -> DataLoader[Any]:
        return DataLoader(Images(), batch_size=4, sampler=sampler, num_workers=workers)

    sampler = SemidiscreteSampler(fitted(), 7)
    sampler.set_epoch(2)
    whole = list(loader(sampler))
    assert len(whole) == 6
    sampler.set_epoch(2)
    again = iter(loader(sampler))
    for _ in range(2):
        next(again)
    state = sampler.state_dict(taken=8)
    other = SemidiscreteSampler(fitted(), 7)
    other.load_state_dict(state)
    other.set_epoch(2)
    assert len(other) == 16
    assert len(loader(other)) == 4
    torch.testing.assert_close(list(loader(other)), whole[2:], rtol=0, atol=0)
    # After it comes a whole epoch, and another epoch has other noise.
    torch.testing.assert_close(list(other), list(_at(2)), rtol=0, atol=0)
    assert set(_at(2)).isdisjoint(_at(3))


def _at(epoch: int) -> list[tuple[int, int]]:
    sampler = SemidiscreteSampler(fitted(), 7)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_what_is_handed_out_counts_unless_something_else_is_said() -> None:
    sampler = SemidiscreteSampler(fitted(), 7)
    passing = iter(sampler)
    first = [next(passing) for _ in range(5)]
    other = SemidiscreteSampler(fitted(), 7)
    other.load_state_dict(sampler.state_dict())
    assert first + list(other) == _at(0)


def test_an_index_finds_nearly_all() -> None:
    pytest.importorskip("usearch.index")
    exact, found = (
        list(SemidiscreteSampler(fitted("classes"), 1, length=300, search=word)) for word in ("exact", "usearch")
    )
    assert sum(one == other for one, other in zip(exact, found, strict=True)) > 280


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: fit_potentials(X.long()), "`x` must have a real floating dtype"),
        (lambda: fit_potentials(X / 0), "`x` must be finite"),
        (lambda: fit_potentials(X[:0]), "at least one element"),
        (lambda: fit_potentials(X, labels=LABELS[:3]), "`labels` must have shape \\(24,\\)"),
        (lambda: fit_potentials(X, rank=7), "`rank` must be a whole number from 1 to 6, got 7"),
        (lambda: fit_potentials(X, steps=1), "`steps` must be a whole number from 2"),
        (lambda: SemidiscreteSampler(fitted(), length=0), "`length` must be a whole number of at least 1, got 0"),
        (lambda: SemidiscreteSampler(fitted(), search="best"), "`search` must be auto, exact or usearch"),  # pyright: ignore[reportArgumentType]
        (
            lambda: SemidiscreteSampler(fitted()).load_state_dict({"seed": 0}),
            "one of a sampler with seed 0, length 24 and 1 processes",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(call: Any, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        call()
    assert "\n" not in str(caught.value)
