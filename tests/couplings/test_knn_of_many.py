"""The nearest of very many draws: its law is that of the search in chunks, and of the closed form at any number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from immiscible import KNN, InputError
from immiscible.couplings import knn as nearest
from immiscible.couplings import knn_of_many as nearest_of_many

# With fixed seeds a law that holds passes forever; a wrong one gives p-values of 1e-6 and less at these sample sizes.
LEAST_P = 1e-4


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scalars(rows: int, dims: int, length: float, k: float, seed: int = 1) -> dict[str, Tensor]:
    """What the law of the noise depends on, of data of one length in directions of their own."""
    u = torch.nn.functional.normalize(torch.randn(rows, dims, generator=seeded(dims), dtype=torch.float64), dim=1)
    generator = seeded(seed)
    noise = torch.randn(rows, dims, generator=generator)
    noise = KNN(k)((length * u).float(), noise, generator=generator).double()
    distance = (length * u - noise).norm(dim=1)
    return {"axial": (u * noise).sum(1), "norm": noise.norm(dim=1), "distance": distance}


def distance_cdf(dims: int, k: float, length: float):
    """Of the squared distance to the nearest of ``k``: the distance to each is noncentral chi-square."""
    one = stats.chi2(dims) if length == 0 else stats.ncx2(dims, length**2)
    return lambda distance: -np.expm1(k * np.log1p(-one.cdf(distance)))


@pytest.mark.parametrize("dims", [1, 2, 3, 20, 64, 3072, 100_000])
@pytest.mark.parametrize("length", [0.0, 0.3, 8.0, 300.0, 1e4])
def test_distance_of_a_quantile_is_that_of_noncentral_chi_square(dims, length):
    level = torch.tensor([0.9, 0.5, 1e-2, 1e-5, 1e-10, 1e-15, 1e-20], dtype=torch.float64)
    distance = nearest_of_many.inverse_cdf(level, torch.full_like(level, length), dims)
    one = stats.chi2(dims) if length == 0 else stats.ncx2(dims, length**2)
    found = torch.from_numpy(one.cdf(distance.square().numpy()))
    torch.testing.assert_close(found, level, rtol=1e-6, atol=0)


@pytest.mark.parametrize("k", [100, 10_000])
@pytest.mark.parametrize(
    ("dims", "length"),
    [(1, 0.0), (1, 3.0), (2, 0.0), (2, 2.0), (2, 20.0), (3, 1.0), (64, 0.0), (64, 6.0), (64, 200.0), (3072, 28.0)],
)
def test_law_is_that_of_the_search_in_chunks(monkeypatch, dims, length, k):
    rows = 3001 if k == 100 else 1201
    monkeypatch.setattr(nearest, "ONE_DRAW_FROM", math.inf)
    searched = scalars(rows, dims, length, k, seed=2)
    monkeypatch.setattr(nearest, "ONE_DRAW_FROM", 2)
    monkeypatch.setattr(nearest, "_best_of", None)
    for name, values in scalars(rows, dims, length, k).items():
        assert stats.ks_2samp(values, searched[name]).pvalue > LEAST_P, name


@pytest.mark.parametrize(("dims", "length", "k"), [(8, 1.0, 1e6), (48, 6.0, 1e9), (48, 0.0, 1e15), (784, 20.0, 1e15)])
def test_distance_follows_the_least_of_any_number_of_noncentral_chi_squares(dims, length, k):
    distance = scalars(1009, dims, length, k)["distance"].square()
    assert stats.kstest(distance, distance_cdf(dims, k, length)).pvalue > LEAST_P


def test_nearest_to_a_far_datum_has_the_largest_component_along_it():
    far = scalars(2003, 64, 1e9, 10_000)
    assert stats.kstest(far["axial"], lambda a: stats.norm.cdf(a) ** 10_000).pvalue > LEAST_P
    rest = far["norm"].square() - far["axial"].square()
    assert stats.kstest(rest, stats.chi2(63).cdf).pvalue > LEAST_P


def test_each_datum_has_its_own_winner():
    """Data of different lengths in one batch, more than are integrated at once."""
    dims, rows, k = 32, 2 * nearest_of_many.ROWS_AT_ONCE + 1, 1e12
    length = torch.linspace(0, 40, rows)
    a, r2 = nearest_of_many.nearest_of_many(length, dims, k, nearest.draw_chi2, seeded(9))
    squared = ((a - length).square() + r2).double().numpy()
    # The distribution function of each, at its own distance, is uniform.
    levels = [distance_cdf(dims, k, one)(value) for one, value in zip(length.tolist(), squared, strict=True)]
    assert stats.kstest(levels, "uniform").pvalue > LEAST_P


def test_given_noise_is_still_one_of_the_candidates(monkeypatch):
    monkeypatch.setattr(nearest, "ONE_DRAW_FROM", 2)
    x, noise = torch.randn(2, 12007, 5, generator=seeded(10))
    kept = (KNN(4)(x, noise, generator=seeded(11)) == noise).all(1).double().mean().item()
    assert abs(kept - 1 / 4) < 5 * math.sqrt(1 / 4 * 3 / 4 / 12007)


@pytest.mark.parametrize("score", ["l2", "dot"])
def test_more_than_float64_can_tell_apart_are_refused(score):
    assert str(KNN(1e15, score)).startswith("knn:1000000000000000")
    with pytest.raises(InputError, match=r"^`k` must be at most 1e15, got 1.1e\+15: float64 does not tell larger"):
        KNN(1.1e15, score)


def test_default_dtype_of_torch_is_not_read():
    x, noise = torch.randn(2, 9, 12, generator=seeded(12))
    expected = KNN(1e9)(x, noise, generator=seeded(13))
    torch.set_default_dtype(torch.float64)
    try:
        torch.testing.assert_close(KNN(1e9)(x, noise, generator=seeded(13)), expected, rtol=0, atol=0)
    finally:
        torch.set_default_dtype(torch.float32)
