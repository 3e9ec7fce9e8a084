"""The nearest of some draws, found among those that lead: its law is that of the closed form, whoever leads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from immiscible.couplings import knn_leading
from immiscible.couplings.knn_leading import cube_root, nearest_of_some

# With fixed seeds a law that holds passes forever; a wrong one gives p-values of 1e-6 and less at these sample sizes.
LEAST_P = 1e-4


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def levels(dims: int, length: float, draws: int, rows: int = 6007) -> dict[str, float]:
    """P-values of what must be uniform, if the law is that of the nearest."""
    a, r2 = (value.double().numpy() for value in nearest_of_some(torch.full((rows,), length), dims, draws, seeded(3)))
    squared = (a - length) ** 2 + r2
    one = stats.chi2(dims) if length == 0 else stats.ncx2(dims, length**2)
    found = {"distance": stats.kstest(-np.expm1(draws * np.log1p(-one.cdf(squared))), "uniform").pvalue}
    # Given the distance, the direction from the datum is von Mises-Fisher: without a datum it is uniform.
    if length == 0:
        found["angle"] = stats.kstest(a**2 / squared, stats.beta(0.5, (dims - 1) / 2).cdf).pvalue
    return found


@pytest.mark.parametrize("draws", [15, 63, 255])
@pytest.mark.parametrize(("dims", "length"), [(35, 0.0), (35, 3.0), (64, 8.0), (256, 10.0), (3072, 30.0)])
def test_the_law_is_that_of_the_nearest(dims: int, length: float, draws: int) -> None:
    for name, p in levels(dims, length, draws).items():
        assert p > LEAST_P, name


@pytest.mark.parametrize("leaders", [1, 2])
@pytest.mark.parametrize("length", [0.0, 4.0])
def test_the_law_is_the_same_where_others_often_have_to_be_drawn(
    monkeypatch: pytest.MonkeyPatch, leaders: int, length: float
) -> None:
    monkeypatch.setattr(knn_leading, "LEADERS", leaders)
    for name, p in levels(48, length, 40).items():
        assert p > LEAST_P, name


@pytest.mark.parametrize("length", [0.0, 2.0, 30.0, 1e4])
@pytest.mark.parametrize("dims", [35, 256])
def test_no_score_is_below_what_is_said_of_it(dims: int, length: float) -> None:
    root = cube_root(dims - 1)
    plane = knn_leading._Plane(torch.full((4001, 1), 2 * length), root)
    w = torch.linspace(-5, 5, 4001)[:, None]
    score = plane.best(w, seeded(1))[0]
    slack = 1e-5 * (score.abs() + 2 * length * w.abs())
    assert (score >= plane.above(w) - slack).all()


@pytest.mark.parametrize("degrees", [34, 63, 255, 3071, 100_000])
def test_the_polynomial_is_the_quantile_of_chi_square(degrees: int) -> None:
    z = np.linspace(-6, 6, 601)
    expected = np.where(z > 0, stats.chi2(degrees).isf(stats.norm.sf(z)), stats.chi2(degrees).ppf(stats.norm.cdf(z)))
    np.testing.assert_allclose(np.polynomial.Polynomial(cube_root(degrees))(z) ** 3, expected, rtol=3e-7)


def test_the_same_generator_gives_the_same_nearest() -> None:
    length = torch.linspace(0, 20, 9)
    for ours, again in zip(*(nearest_of_some(length, 64, 63, seeded(5)) for _ in range(2)), strict=True):
        torch.testing.assert_close(ours, again, rtol=0, atol=0)
