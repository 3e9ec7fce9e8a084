"""Each datum takes noise from the cell of its group, and over all data the noise is as it was."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import immiscible
from immiscible import Cells, InputError, Mixed, Pool
from immiscible.couplings.cells import FittedCells

SHAPE = (1, 4, 4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def data(count: int = 3000) -> tuple[Tensor, Tensor]:
    """Data with a strong mean, some leading components and two classes that lie apart."""
    draws, labels = seeded(), torch.arange(count) % 2
    x = torch.randn(count, 16, generator=draws) * torch.linspace(3, 0.1, 16) + 5 + 2 * labels[:, None]
    return x.view(-1, *SHAPE), labels


def noise_for(x: Tensor, seed: int = 1) -> Tensor:
    return torch.randn(x.shape, generator=seeded(seed))


def coupled(cells: Cells, x: Tensor, labels: Tensor | None = None, size: int = 50) -> Tensor:
    draws, noise = seeded(2), noise_for(x)
    parts = [
        cells(
            x[at : at + size],
            noise[at : at + size],
            labels=None if labels is None else labels[at : at + size],
            generator=draws,
        )
        for at in range(0, len(x), size)
    ]
    return torch.cat(parts)


def fitted(cells: Cells) -> FittedCells:
    assert cells.fitted is not None
    return cells.fitted


@pytest.fixture(scope="module")
def cells() -> Cells:
    return Cells(24, rank=3).fit(data()[0])


@pytest.fixture(scope="module")
def by_class() -> Cells:
    return Cells(24, rank=3).fit(*data())


def p_values(noise: Tensor) -> tuple[float, float]:
    noise = noise.flatten(1).double()
    dims = noise.shape[1]
    norm = stats.kstest(noise.square().sum(1), stats.chi2(dims).cdf).pvalue
    return norm, stats.kstest(noise.mean(1) * math.sqrt(dims), "norm").pvalue


@pytest.mark.parametrize("size", [1, 50])
def test_noise_lies_in_the_cell_of_its_datum(cells, size):
    x, found = data(200)[0], fitted(cells)
    u = coupled(cells, x, size=size).flatten(1) @ found.basis.T
    nearest = torch.cdist(x.flatten(1) @ found.basis.T - found.offset, found.centres).argmin(1)
    scores = u[:, None, :].mul(found.centres).sum(2) + found.potentials[0]
    assert_same(scores.argmax(1), nearest)


def test_only_the_part_along_the_components_changes(cells):
    x, basis = data(200)[0], fitted(cells).basis
    change = (coupled(cells, x) - noise_for(x)).flatten(1)
    torch.testing.assert_close(change - change @ basis.T @ basis, torch.zeros_like(change), rtol=0, atol=1e-5)
    torch.testing.assert_close(basis @ basis.T, torch.eye(3), rtol=0, atol=1e-5)


def test_law_is_exact_to_within_the_fit(cells):
    noise = coupled(cells, data()[0])
    assert min(p_values(noise)) > 0.01
    torch.testing.assert_close(noise.flatten(1).T.cov(), torch.eye(16), rtol=0, atol=0.12)
    assert noise.mean(0).abs().max() < 4 / math.sqrt(len(noise))
    assert abs(fitted(cells).chi2 - 1) < 4 * math.sqrt(2 / 23)


def test_part_along_the_components_is_normal_within_the_cell(cells):
    found = fitted(cells)
    x = data(1)[0].expand(2000, *SHAPE)
    u = coupled(cells, x).flatten(1) @ found.basis.T
    cell = torch.cdist(x[:1].flatten(1) @ found.basis.T - found.offset, found.centres).argmin()
    draws = torch.randn(100_000, 3, generator=seeded(5))
    within = draws[(draws @ found.centres.T + found.potentials[0]).argmax(1) == cell]
    assert len(within) > 1000
    for axis in range(3):
        assert stats.ks_2samp(u[:, axis], within[:, axis]).pvalue > 0.01


def test_law_is_exact_in_each_class_where_labels_are_given(by_class, cells):
    x, labels = data()
    within, across = coupled(by_class, x, labels), coupled(cells, x)
    for label in (0, 1):
        assert min(p_values(within[labels == label])) > 0.01
        # The classes lie apart along all coordinates alike, and without labels the noise shows it.
        assert p_values(across[labels == label])[1] < 1e-6


def test_data_are_nearer_to_their_noise(cells):
    x = data()[0]
    near, plain = ((x - noise).flatten(1).norm(dim=1).mean() for noise in (coupled(cells, x), noise_for(x)))
    assert near < plain - 0.05


def test_one_cell_changes_nothing():
    x = data(100)[0]
    assert_same(coupled(Cells(1, rank=2).fit(x), x), noise_for(x))


def test_fit_depends_on_its_seed_and_draws_from_nothing_else():
    x, before = data(500)[0], torch.get_rng_state()
    one, same, other = (Cells(8, rank=2).fit(x, seed=seed) for seed in (3, 3, 4))
    assert_same(torch.get_rng_state(), before)
    for name, value in fitted(one).tensors().items():
        assert_same(fitted(same).tensors()[name], value)
    assert not fitted(one).centres.equal(fitted(other).centres)


def test_cells_are_fitted_to_a_loader_of_data_or_of_pairs():
    x, labels = data()
    shuffled = torch.randperm(len(x), generator=seeded(7))
    batches = [(x[index], labels[index]) for index in shuffled.split(64)]
    for cells, given in (
        (Cells(24, rank=3).fit([x for x, _ in batches]), None),
        (Cells(24, rank=3).fit(iter(batches)), labels),
    ):
        assert abs(fitted(cells).chi2 - 1) < 1.5
        assert min(p_values(coupled(cells, x, given))) > 0.01


def test_of_a_long_loader_a_sample_is_looked_at(monkeypatch):
    monkeypatch.setattr("immiscible.couplings.cells.AT_MOST", 300)

    def endless():
        while True:
            yield data(100)[0]

    Cells(4, rank=2).fit(endless())


def test_cells_go_on_as_they_were_kept(cells):
    x = data(60)[0]
    kept = Cells(24, rank=3, fitted=FittedCells.of(fitted(cells).tensors()))
    assert_same(coupled(kept, x), coupled(cells, x))
    assert fitted(kept).chi2 == fitted(cells).chi2


def test_mixed_and_spellings(cells):
    x = data(50)[0]
    assert str(cells) == "cells:24:3"
    results = [Mixed(cells, 0.5)(x, noise_for(x), generator=seeded(seed)) for seed in range(20)]
    assert {result.equal(noise_for(x)) for result in results} == {True, False}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_result_is_like_the_noise_and_inputs_stay(cells, dtype):
    x = data(40)[0].to(dtype)
    noise = noise_for(x).to(dtype)
    kept = x.clone(), noise.clone()
    result = cells(x.requires_grad_(), noise.requires_grad_(), generator=seeded(1))
    assert (result.shape, result.dtype, result.requires_grad) == (noise.shape, dtype, False)
    assert_same(x.detach(), kept[0])
    assert_same(noise.detach(), kept[1])
    expected = cells(x.detach().float(), noise.detach().float(), generator=seeded(1))
    torch.testing.assert_close(result, expected.to(dtype), rtol=1e-5 if dtype.itemsize > 2 else 2e-2, atol=1e-2)


def test_global_state_is_untouched_when_a_generator_is_given(cells):
    before = torch.get_rng_state()
    coupled(cells, data(100)[0])
    assert_same(torch.get_rng_state(), before)


def test_what_is_not_fitted_couples_nothing():
    x = data(3)[0]
    with pytest.raises(
        InputError, match=r"^cells:8:16 must be fitted to data before it couples: take what `coupling.fit"
    ):
        immiscible.coupling("cells:8")(x, noise_for(x))


def test_labels_must_be_those_of_the_fit(cells, by_class):
    x, labels = data(4)
    with pytest.raises(InputError, match="fitted without labels must be called without them"):
        cells(x, noise_for(x), labels=labels)
    with pytest.raises(InputError, match="fitted with labels must be called with them"):
        by_class(x, noise_for(x))
    with pytest.raises(InputError, match="labels must be among the 2 that the cells were fitted with, got 4"):
        by_class(x, noise_for(x), labels=labels + 4)


def test_data_must_be_as_large_as_those_of_the_fit(cells):
    with pytest.raises(InputError, match="must be given data of 16 values each, as it was fitted to, got 7"):
        cells(torch.zeros(3, 7), torch.zeros(3, 7))


@pytest.mark.parametrize("given", [torch.zeros(0, 3), [], torch.full((4, 3), torch.nan), torch.arange(4)])
def test_fit_needs_data_that_are_finite_numbers(given):
    with pytest.raises(InputError):
        Cells(4).fit(given)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "8", None, 2**30])
@pytest.mark.parametrize("name", ["count", "rank"])
def test_counts_out_of_range_are_refused(name, value):
    with pytest.raises(InputError, match=rf"^`{name}` must be a whole number from 1 to [\d,]+, got .*\.$"):
        Cells(**{name: value})


def test_pools_refuse_it_in_one_line():
    with pytest.raises(InputError, match="a pool must be paired by an assignment, got cells:256:16"):
        Pool(Cells())


def test_cell_that_nothing_falls_into_is_told(cells, monkeypatch):
    monkeypatch.setattr("immiscible.couplings.cells.MOST_DRAWN", 1000)
    lost = dict(fitted(cells).tensors(), potentials=torch.full((1, 24), -1e9).index_fill(1, torch.tensor(0), 0.0))
    with pytest.raises(InputError, match="each cell must be one that normal draws fall into, got none of"):
        coupled(Cells(24, rank=3, fitted=FittedCells.of(lost)), data(50)[0])


def test_few_data_of_few_values_are_no_obstacle():
    x = torch.tensor([1.0, 2.0, 7.0])
    cells = Cells(8).fit(x)
    assert cells(x, noise_for(x)).shape == x.shape
    assert len(fitted(cells).centres) <= 3
