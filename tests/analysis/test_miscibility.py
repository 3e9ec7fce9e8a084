from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor

import immiscible
from immiscible.analysis.laws import NearestLaw, Pencil, Points, Seen
from immiscible.analysis.miscibility import Curve, diffusing, miscibility, straight
from immiscible.analysis.plan import Mirrored, Pooled, fit_plan, solve_pools
from immiscible.couplings import KNN, CostSpace, InSpace, LinearAssignment, Mixed
from immiscible.couplings.spaces import Raw
from immiscible.errors import InputError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    return torch.tensor(bunch.images / 8 - 1).float()[:400, None], torch.tensor(bunch.target)[:400]


def effective(logs: Tensor) -> Tensor:
    logs = logs.log_softmax(0)
    return torch.exp(-(logs.exp() * logs).sum(0))


def pairs_of(x: Tensor, count: int, spread: float = 1.0) -> tuple[Points, Tensor]:
    noise = spread * torch.randn(count, x.shape[1], generator=seeded(3), dtype=torch.float64)
    of = x[torch.arange(count) % len(x)]
    return Points(Seen(of, of), noise), noise


def direct(coupling: KNN, x: Tensor, noise: Tensor, space: CostSpace | None) -> Tensor:
    """The logarithm of the KNN density, with shape (N, P), noise with shape (N, P, D)."""
    z = (x if space is None else space.ranked(x)).numpy()
    seen = (noise if space is None else space.coarse(noise.flatten(0, 1)).view(*noise.shape[:2], -1)).numpy()
    squares = (z**2).sum(1)[:, None]
    if coupling.score == "dot":
        tail = stats.norm.logcdf(np.einsum("nd,npd->np", z, seen) / np.sqrt(squares))
    else:
        tail = stats.ncx2.logsf(((z[:, None] - seen) ** 2).sum(2), z.shape[1], squares)
    own = stats.norm.logpdf(noise.numpy()).sum(2)
    return torch.from_numpy(own + math.log(coupling.k) + (coupling.k - 1) * tail)


BASIS = torch.linalg.qr(torch.randn(7, 3, generator=seeded(5), dtype=torch.float64))[0].T
SPACES = [None, CostSpace(centre=torch.arange(7.0)), CostSpace(scale=torch.full((7,), 2.0)), CostSpace(basis=BASIS)]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("coupling", [KNN(8), KNN(2.5, "dot")])
def test_closed_densities_at_every_time_are_those_written_out(coupling: KNN, space: CostSpace | None) -> None:
    x = torch.randn(11, 7, generator=seeded(0), dtype=torch.float64) + 1
    points, noise = pairs_of(x, 5)
    for ratio in (0.0, 0.3, 2.0):
        noises = noise + ratio * (x[:5] - x[:, None])
        through = space or Raw()
        seen = Points(Seen.through(through, x[:5]), through.coarse(noise).double())
        pencil = Pencil(Seen.through(through, x), seen)
        plain = Pencil(Seen(x, x), points).squares(ratio)
        live = torch.ones(11, 5, dtype=torch.bool)
        ours = NearestLaw(coupling, through).log_ratio(pencil, torch.arange(11), ratio, live).view(11, 5) - plain / 2
        expected = direct(coupling, x, noises, space)
        torch.testing.assert_close(ours.log_softmax(0), expected.log_softmax(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", [straight, diffusing])
def test_independent_noise_has_the_posterior_written_out(path, monkeypatch) -> None:
    x = torch.randn(40, 3, 2, generator=seeded(0))
    curve = Curve(points=16, times=(0.0, 0.3, 0.7), path=path)
    ours = miscibility(x, "independent", curve, seed=4)
    # Every datum at once here, in chunks of one there.
    monkeypatch.setattr("immiscible.analysis.miscibility.VALUES_AT_ONCE", 1)
    torch.testing.assert_close(miscibility(x, "independent", curve, seed=4).mean, ours.mean, rtol=1e-9, atol=0)
    assert ours.exact
    assert ours.mean[0] == pytest.approx(40)
    from immiscible.analysis.sampling import pairs

    drawn = next(iter(pairs(x, immiscible.coupling("independent"), batches=1, batch_size=40, seed=4)))
    numbers = []
    for row, noise in zip(drawn.x, drawn.noise, strict=True):
        signal, spread = path(0.3)
        noises = (signal * row + spread * noise - signal * x) / spread
        numbers.append(effective(-noises.double().square().flatten(1).sum(1) / 2))
    # The measurement takes 16 of these 40 points.
    assert min(numbers) - 1e-4 <= ours.lower[1] <= ours.upper[1] <= max(numbers) + 1e-4


def test_couplings_unmix_and_a_share_unmixes_less(digits) -> None:
    curve = Curve(points=200, times=(0.0, 0.1, 0.3, 0.8), batch_size=100)
    mean = {name: miscibility(digits[0], name, curve).mean for name in ("independent", "knn:8", "knn:8@0.5", "knn:1")}
    assert mean["independent"] == pytest.approx(mean["knn:1"])
    for plain, half, full in zip(*(mean[name][:3] for name in ("independent", "knn:8@0.5", "knn:8")), strict=True):
        assert plain > half > full
    assert mean["knn:8"][0] > mean["knn:8"][1] > mean["knn:8"][2] > mean["knn:8"][3]


def test_mean_of_a_posterior_share_is_one_in_n(digits) -> None:
    # The posterior averages to the prior over points of the coupling's own law, and over no others.
    x = digits[0].flatten(1)[:100].double()
    space = Raw()
    order = torch.arange(100).repeat(60)
    noise = KNN(8)(x[order], torch.randn(6000, 64, generator=seeded(0), dtype=torch.float64), generator=seeded(1))
    seen = Seen.through(space, x)
    pencil = Pencil(seen, Points(Seen.through(space, x[order]), noise))
    every = torch.ones(100, 6000, dtype=torch.bool)
    for ratio in (0.0, 0.1):
        ratios = NearestLaw(KNN(8), space).log_ratio(pencil, torch.arange(100), ratio, every).view(100, 6000)
        share = (ratios - pencil.squares(ratio) / 2).softmax(0)
        error = share.std(1) / 6000**0.5
        assert ((share.mean(1) - 0.01).abs() / error).max() < 4.5


def enumerated(x: Tensor, noise: Tensor, draws: torch.Generator, pools: int) -> Tensor:
    """How often each datum gets a noise if all are paired, over the other noises, by every permutation; shape (N,)."""
    count = len(x)
    orders = torch.tensor(list(itertools.permutations(range(count))))
    wins = torch.zeros(count, dtype=torch.float64)
    for datum in range(count):
        others = torch.randn(pools, count, x.shape[1], generator=draws, dtype=torch.float64)
        others[:, 0] = noise[datum]
        scores = torch.einsum("nd,rbd->rnb", x, others)
        totals = sum(scores[:, row, orders[:, row]] for row in range(count))
        wins[datum] = (orders[totals.argmax(1)][:, datum] == 0).double().mean()
    return wins


def six(dims: int = 3) -> Tensor:
    return torch.randn(6, dims, generator=seeded(1), dtype=torch.float64)


def small_pools(x: Tensor, size: int, seed: int = 0) -> Pooled:
    return Pooled(x, torch.arange(len(x)), size, LinearAssignment(), Raw(), seed)


@pytest.mark.parametrize("goal", [1, -1])
@pytest.mark.parametrize("ratio", [0.0, 0.4])
def test_brute_force_over_all_permutations_agrees_on_six_data(ratio: float, goal: int) -> None:
    x = six()
    points, noise = pairs_of(x, 3)
    law = solve_pools(replace(small_pools(x, 6), space=Raw() if goal == 1 else Mirrored(Raw())))
    pencil = Pencil(Seen.through(law.space, x), points)
    live = torch.ones(6, 3, dtype=torch.bool)
    ours = law.log_ratio(pencil, torch.arange(6), ratio, live).view(6, 3).exp() / 6
    pools = 1500
    for point in range(3):
        noises = noise[point] + ratio * (x[point] - x)
        expected = enumerated(goal * x, noises, seeded(point), pools)
        error = (expected * (1 - expected) * (1 / pools + 1 / 1000)).sqrt() + 1e-3
        assert ((ours[:, point] - expected).abs() / error).max() < 4
        spread = [numbers_within(share, noises, of) for share, of in ((ours[:, point], 1000), (expected, pools))]
        apart = (spread[0].mean() - spread[1].mean()).abs()
        assert apart < 4 * (spread[0].var() + spread[1].var()).sqrt()


def numbers_within(share: Tensor, noises: Tensor, pools: int) -> Tensor:
    """Effective numbers that are as likely as the one of some counted shares."""
    wins = torch.distributions.Beta(share * pools + 0.5, (1 - share) * pools + 0.5)
    torch.manual_seed(0)
    return effective((wins.sample((400,)).log() - noises.square().sum(1) / 2).T)


@pytest.mark.parametrize("coupling", ["assignment", "assignment:worst"])
def test_the_plan_of_larger_pools_is_near_small_pools_taken_as_they_are(monkeypatch, coupling: str) -> None:
    x = torch.randn(16, 8, generator=seeded(0))
    curve = Curve(points=100, times=(0.0, 0.2), batch_size=6)
    exact = miscibility(x, coupling, curve)
    monkeypatch.setattr("immiscible.analysis.miscibility.SMALL_POOL", 0)
    plan = miscibility(x, coupling, curve)
    assert exact.gain is None
    assert plan.gain is not None
    assert plan.gain > 0.5
    torch.testing.assert_close(plan.mean, exact.mean, rtol=0.15, atol=0)
    independent = miscibility(x, "independent", curve)
    assert exact.mean[0] < 0.85 * independent.mean[0]
    # Farthest noise is as telling where there is noise alone; with the data it mixes more than noise of no choice.
    assert (exact.mean[1] < 0.85 * independent.mean[1]) == (coupling == "assignment")


def test_temperature_leads_from_the_assignment_to_independent_noise() -> None:
    x = torch.randn(40, 8, generator=seeded(0))
    curve = Curve(points=80, times=(0.0, 0.2), batch_size=20)
    names = ("assignment", "assignment:entropic:0.0001", "assignment:entropic:1", "assignment:entropic:10000")
    cold, colder, warm, hot = (torch.tensor(miscibility(x, name, curve).mean) for name in names)
    torch.testing.assert_close(cold, colder, rtol=1e-3, atol=0)
    torch.testing.assert_close(hot, torch.tensor(miscibility(x, "independent", curve).mean), rtol=0.03, atol=0)
    assert bool((cold < warm).all() and (warm < hot).all())


def test_an_estimated_ratio_averages_to_one_over_noise(digits) -> None:
    x = digits[0].flatten(1)
    law = fit_plan(small_pools(x, 64))
    noise = torch.randn(4000, 64, generator=seeded(9), dtype=torch.float64)
    seen = Seen.through(Raw(), x[:50])
    pencil = Pencil(seen, Points(Seen(torch.zeros_like(noise), torch.zeros_like(noise)), noise))
    ratios = law.log_ratio(pencil, torch.arange(50), 0.0, torch.ones(50, 4000, dtype=torch.bool)).exp().view(50, 4000)
    assert ratios.mean().item() == pytest.approx(1, abs=0.05)
    assert ratios.max() <= 64


@pytest.mark.slow
def test_assignments_across_and_within_classes(digits) -> None:
    x, labels = digits
    curve = Curve(points=100, times=(0.0, 0.2), batch_size=128)
    across = miscibility(x, "assignment", curve)
    within = miscibility(x, "assignment", curve, labels=labels)
    blocks = miscibility(x, "assignment:16", curve)
    assert across.mean[0] < within.mean[0] < 400
    assert across.mean[0] < blocks.mean[0] < 400


def test_mapped_data_of_any_shape_and_type_and_progress(tmp_path) -> None:
    values = np.random.default_rng(0).integers(0, 3, (50, 2, 3), dtype=np.uint8)
    np.save(tmp_path / "data.npy", values)
    done: list[tuple[int, int]] = []
    curve = Curve(points=8, times=(0.0, 0.5))
    mapped = np.load(tmp_path / "data.npy", mmap_mode="r")
    ours = miscibility(
        mapped,
        Mixed(InSpace(KNN(4), CostSpace(centre=torch.ones(2, 3))), 0.5),
        curve,
        progress=lambda *n: done.append(n),
    )
    assert done[-1] == (50, 50)
    assert json.loads(json.dumps(ours.as_dict()))["images"] == 50
    assert (
        ours.mean
        == miscibility(
            torch.from_numpy(values).float(), Mixed(InSpace(KNN(4), CostSpace(centre=torch.ones(2, 3))), 0.5), curve
        ).mean
    )


def test_what_cannot_be_measured_is_said() -> None:
    x = torch.randn(5, 2)
    with pytest.raises(InputError, match="law of a coupling must be known"):
        miscibility(x, lambda x, noise, **_: noise)
    with pytest.raises(InputError, match="noise in them"):
        miscibility(x, "independent", Curve(times=(1.0,)))
    with pytest.raises(InputError, match="`points` must be"):
        miscibility(x, "independent", Curve(points=0))
    with pytest.raises(InputError, match="at least 1, got 0"):
        miscibility(x[:0], "independent")
