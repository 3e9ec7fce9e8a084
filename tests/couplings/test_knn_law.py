"""The law of KNN noise: that of the search among candidates, drawn without the candidates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor

from immiscible import KNN, Independent, InputError, LinearAssignment, Reservoir
from immiscible.couplings import knn as nearest
from immiscible.couplings.knn import draw_chi2

# With fixed seeds a law that holds passes forever; a wrong one gives p-values of 1e-6 and less at these sample sizes.
LEAST_P = 1e-4


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def directions(rows: int, dims: int, seed: int) -> Tensor:
    """Unit vectors, another in each row, so that a mixed-up row or axis cannot hide."""
    return torch.nn.functional.normalize(torch.randn(rows, dims, generator=seeded(seed), dtype=torch.float64), dim=1)


def search(x: Tensor, k: int, score: str, seed: int) -> Tensor:
    """The published rule: draws every candidate and keeps the best."""
    candidates = torch.randn(len(x), k, x.shape[1], generator=seeded(seed))
    if score == "l2":
        best = (x[:, None] - candidates).square().sum(2).argmin(1)
    else:
        best = (x[:, None] * candidates).sum(2).argmax(1)
    return candidates[torch.arange(len(x)), best]


def law(u: Tensor, length: float, noise: Tensor) -> dict[str, Tensor]:
    """What the law of the noise given ``x = length * u`` depends on, and the distance, which joins the first two."""
    noise = noise.double()
    values = {"axial": (u * noise).sum(1), "norm": noise.norm(dim=1), "distance": (length * u - noise).norm(dim=1)}
    if u.shape[1] > 1:
        across = u.roll(1, 1)
        across = across - (across * u).sum(1, keepdim=True) * u
        values["across"] = (across * noise).sum(1) / across.norm(dim=1)
    return values


def knn(x: Tensor, k: float, score: str, seed: int = 1) -> Tensor:
    generator = seeded(seed)
    return KNN(k, score)(x, torch.randn(x.shape, generator=generator), generator=generator)


CASES = [
    (1, 2, 0.0, "l2"),
    (1, 8, 3.0, "l2"),
    (2, 4, 1.5, "l2"),
    (2, 64, 0.0, "l2"),
    (20, 8, 0.0, "l2"),
    (20, 64, 6.0, "l2"),
    (64, 4, 8.0, "l2"),
    (64, 64, 0.5, "l2"),
    (300, 2, 100.0, "l2"),
    (300, 8, 17.0, "l2"),
    (1, 4, 1.0, "dot"),
    (2, 64, 3.0, "dot"),
    (20, 8, 0.0, "dot"),
    (64, 16, 5.0, "dot"),
    (300, 4, 20.0, "dot"),
]


@pytest.mark.parametrize(("dims", "k", "length", "score"), CASES)
def test_law_is_that_of_the_search(dims, k, length, score):
    u = directions(4001, dims, seed=dims)
    x = (length * u).float()
    ours, reference = law(u, length, knn(x, k, score)), law(u, length, search(x, k, score, seed=2))
    for name, values in ours.items():
        assert stats.ks_2samp(values, reference[name]).pvalue > LEAST_P, name


def distance_cdf(dims: int, k: int, length: float):
    """Of the squared distance to the nearest of ``k``: the distance to each is noncentral chi-square."""
    one = stats.chi2(dims) if length == 0 else stats.ncx2(dims, length**2)
    return lambda distance: -np.expm1(k * np.log1p(-one.cdf(distance)))


@pytest.mark.parametrize(
    ("dims", "k", "length"),
    [(1, 4, 0.0), (1, 64, 2.0), (2, 8, 1.0), (20, 64, 0.0), (33, 4, 3.0), (34, 4, 3.0), (35, 8, 6.0), (300, 64, 40.0)],
)
def test_distance_follows_the_least_of_k_noncentral_chi_squares(dims, k, length):
    u = directions(20011, dims, seed=3)
    distance = law(u, length, knn((length * u).float(), k, "l2"))["distance"].square()
    assert stats.kstest(distance, distance_cdf(dims, k, length)).pvalue > LEAST_P


@pytest.mark.parametrize("k", [2, 37, 64])
@pytest.mark.parametrize(("dims", "length"), [(2, 2.0), (20, 6.0), (64, 0.0), (64, 5.0)])
def test_law_is_the_same_in_chunks(monkeypatch, dims, length, k):
    monkeypatch.setattr(nearest, "SCALARS_AT_ONCE", 1)
    monkeypatch.setattr(nearest, "LEADERS_FROM", math.inf)
    sizes = []
    best_of = nearest._best_of
    monkeypatch.setattr(nearest, "_best_of", lambda count, *rest: sizes.append(count) or best_of(count, *rest))
    u = directions(10007, dims, seed=4)
    x = (length * u).float()
    values = law(u, length, knn(x, k, "l2"))
    # Each chunk holds the best so far, which is none of its own draws.
    assert sum(size - 1 for size in sizes) + 1 == k
    assert max(sizes) <= max(2, dims // 4)
    assert stats.kstest(values["distance"].square(), distance_cdf(dims, k, length)).pvalue > LEAST_P
    monkeypatch.undo()
    whole = law(u, length, knn(x, k, "l2", seed=5))
    for name in ("axial", "norm"):
        assert stats.ks_2samp(values[name], whole[name]).pvalue > LEAST_P, name


@pytest.mark.parametrize("k", [1.001, 1.5, 2, 2.5, 8, 64.5, 1e6, 1e12])
def test_dot_takes_the_largest_of_a_real_number_of_normals(k):
    u = directions(20011, 7, seed=6)
    axial = law(u, 3.0, knn((3 * u).float(), k, "dot"))["axial"]
    # The k-th power of the normal distribution function is the law of Phi^-1(U^(1/k)).
    assert stats.kstest(axial, lambda a: np.exp(k * stats.norm.logcdf(a))).pvalue > LEAST_P


@pytest.mark.parametrize("k", [2, 2.5, 64])
def test_dot_leaves_what_is_orthogonal_to_the_data(k):
    x, noise = torch.randn(2, 101, 37, generator=seeded(7))
    coupled = KNN(k, "dot")(x, noise, generator=seeded(8))
    u = torch.nn.functional.normalize(x, dim=1)
    moved = coupled - noise
    torch.testing.assert_close(moved, (moved * u).sum(1, keepdim=True) * u)
    assert ((moved * u).sum(1) > -1e-5).all()
    assert ((moved * u).sum(1) > 0.1).any()


def test_l2_keeps_the_direction_of_what_is_orthogonal_to_the_data():
    x, noise = torch.randn(2, 101, 37, generator=seeded(7))
    coupled = KNN(16)(x, noise, generator=seeded(8))
    u = torch.nn.functional.normalize(x, dim=1)
    before, after = (n - (n * u).sum(1, keepdim=True) * u for n in (noise, coupled))
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(unit(after, dim=1), unit(before, dim=1), atol=1e-5, rtol=0)
    assert ((coupled - x).norm(dim=1) <= (noise - x).norm(dim=1) + 1e-4).all()


@pytest.mark.parametrize("score", ["l2", "dot"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(7,), (7, 5), (5, 3, 7, 2)], ids=str)
def test_one_candidate_is_the_noise_handed_in(score, dtype, shape):
    x, noise = torch.randn(2, *shape, generator=seeded(9), dtype=torch.float64).to(dtype)
    torch.testing.assert_close(KNN(1, score)(x, noise), noise, rtol=0, atol=0)


@pytest.mark.parametrize("score", ["l2", "dot"])
def test_noise_handed_in_is_one_of_the_candidates(score):
    x, noise = torch.randn(2, 12007, 5, generator=seeded(10))
    kept = (KNN(4, score)(x, noise, generator=seeded(11)) == noise).all(1).double().mean().item()
    assert abs(kept - 1 / 4) < 5 * math.sqrt(1 / 4 * 3 / 4 / 12007)


def test_a_million_candidates():
    length, dims = 6.0, 48
    u = directions(17, dims, seed=12)
    distance = law(u, length, knn((length * u).float(), 1_000_000, "l2"))["distance"].square()
    # The far tail of the distribution function is below the resolution of one minus it, but not of its own.
    assert stats.kstest(distance, distance_cdf(dims, 1_000_000, length)).pvalue > LEAST_P


@pytest.mark.parametrize("degrees", [1, 2, 33, 34, 63, 3071])
def test_chi_square_draws_follow_their_law(degrees):
    draws = draw_chi2(degrees, (499, 601), torch.device("cpu"), seeded(degrees))
    assert draws.shape == (499, 601)
    assert draws.dtype == torch.float32
    assert stats.kstest(draws.flatten().double(), stats.chi2(degrees).cdf).pvalue > LEAST_P
    # The third central moment, 8 degrees, sees the tails that the largest gap of two distribution functions does not.
    third = (draws.double() - degrees).pow(3)
    assert abs(third.mean() - 8 * degrees) < 5 * third.std() / math.sqrt(third.numel())


def test_chi_square_without_degrees_of_freedom_is_zero():
    draws = draw_chi2(0, (3, 5), torch.device("cpu"), seeded(0))
    torch.testing.assert_close(draws, torch.zeros(3, 5), rtol=0, atol=0)


def test_proposals_next_to_the_mean_are_kept_whatever_the_rounding():
    for seed in range(200):
        z = torch.randn(1, generator=seeded(seed)) * 1e-4
        assert len(nearest._rejected(z, 1535.0, seeded(seed))) == 0


@pytest.mark.parametrize("degrees", [34, 63])
def test_proposals_are_rejected_with_their_own_chance(degrees):
    delta, count = degrees / 2 - 1 / 3, 200_003
    proposals = torch.tensor([-4.0, -3.0, 0.0, 3.0, 4.0])
    z = proposals.repeat(count)
    rejected = nearest._rejected(z, delta, seeded(13)).unique()
    share = torch.bincount(rejected % 5, minlength=5) / count
    y = proposals.double() / math.sqrt(9 * delta)
    # As Marsaglia and Tsang write their acceptance: log u < z^2/2 + delta - delta v + delta log v, v = (1 + y)^3.
    v = (1 + y) ** 3
    expected = 1 - torch.exp(proposals.double() ** 2 / 2 + delta - delta * v + delta * v.log())
    error = 5 * (expected * (1 - expected) / count).clamp_min(0).sqrt() + 1e-9
    assert ((share - expected).abs() <= error).all(), (share, expected)
    assert expected[0] > 0.01


def test_rejected_proposals_are_drawn_anew(monkeypatch):
    shape, device = (3, 5), torch.device("cpu")
    plain = draw_chi2(40, shape, device, seeded(14))
    monkeypatch.setattr(nearest, "_rejected", lambda z, *_: torch.arange(4, 5 if len(z) > 1 else 4))
    redrawn = draw_chi2(40, shape, device, seeded(14))
    assert (plain != redrawn).flatten().tolist() == [index == 4 for index in range(15)]


def exactness(noise: Tensor) -> tuple[float, float]:
    """p-values of the squared norm and of the mean coordinate, pooled, under the standard normal law."""
    noise = noise.double()
    dims = noise.shape[1]
    norm = stats.kstest(noise.square().sum(1), stats.chi2(dims).cdf).pvalue
    return norm, stats.kstest(noise.mean(1) * math.sqrt(dims), "norm").pvalue


def test_knn_is_biased_and_the_others_are_exact():
    x, noise = torch.randn(2, 1009, 64, generator=seeded(15))
    x = x + 1  # a common direction, as images have
    for exact in (Independent(), LinearAssignment(), LinearAssignment(block=101), KNN(1), Reservoir(64)):
        assert min(exactness(exact(x, noise, generator=seeded(16)))) > 0.01
    assert max(exactness(KNN(4)(x, noise, generator=seeded(16)))) < 1e-6
    norm, mean = exactness(KNN(4, "dot")(x, noise, generator=seeded(16)))
    assert norm > 1e-3
    assert mean < 1e-6


def test_bias_of_the_norm_is_the_documented_one():
    digits = torch.from_numpy(load_digits().data).float() / 8 - 1
    for x, low, high in ((digits, 0.88, 0.90), (torch.randn(2003, 3072, generator=seeded(17)) / 2, 0.97, 0.98)):
        assert low < knn(x, 4, "l2").square().mean().item() < high
        assert 0.99 < knn(x, 4, "dot").square().mean().item() < 1.02


@pytest.mark.parametrize("k", [0, -1, 0.5, math.nan, math.inf, True, "4", None])
@pytest.mark.parametrize("score", ["l2", "dot"])
def test_k_below_one_or_no_number_is_refused(k, score):
    with pytest.raises(InputError, match=r"^`k` must be a finite number of at least 1, got .*\.$"):
        KNN(k, score)


def test_l2_refuses_a_real_k():
    with pytest.raises(InputError, match=r"^`k` must be whole for score 'l2', got 2.5: only 'dot' takes a real `k`\.$"):
        KNN(2.5)


@pytest.mark.parametrize("score", ["cosine", "", None])
def test_other_scores_are_refused(score):
    with pytest.raises(InputError, match=r"^`score` must be one of 'l2', 'dot', got .*\.$"):
        KNN(2, score)
