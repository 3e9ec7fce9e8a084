"""FID, KID, precision and recall against closed forms and brute force."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from immiscible.data import Images
from immiscible.errors import InputError
from immiscible.evaluation import Reference, Scores, score
from immiscible.evaluation.scores import covered, frechet_distance, kernel_distance, neighbour_radii


@dataclass
class Flat:
    """The pixels themselves, and how many images were embedded."""

    name: str = "pixels"
    dim: int = 12
    seen: int = 0

    def __call__(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.float32
        self.seen += len(images)
        return images.flatten(1)


def points(count: int, dim: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(count: int, seed: int = 0, scale: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(count, 3, 2, 2, generator=generator)).clamp(-1, 1)


def reference(count: int = 200) -> Reference:
    return Reference(Flat(), Images("some", images(count)))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_fid_of_a_set_with_itself_is_zero(offset: float) -> None:
    x = points(300) + offset
    assert 0 <= frechet_distance(x, x) < 1e-6
    x[:, 2:] = offset
    assert 0 <= frechet_distance(x, x) < 1e-6


def test_fid_of_shifted_scaled_and_turned_sets_follows_the_closed_form() -> None:
    x = points(300) @ torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5, 0.1]).double())
    centred, covariance = x - x.mean(0), x.T.cov()
    shift = points(1, seed=1)[0]
    assert frechet_distance(x + shift, x) == pytest.approx(float(shift.square().sum()))
    assert frechet_distance(1.5 * centred, centred) == pytest.approx(0.25 * float(covariance.trace()))
    turn = torch.linalg.qr(points(5, seed=2)).Q
    root = torch.linalg.cholesky(covariance)
    overlap = torch.linalg.svdvals(root.T @ torch.linalg.cholesky(turn.T @ covariance @ turn)).sum()
    assert frechet_distance(centred @ turn, centred) == pytest.approx(float(2 * covariance.trace() - 2 * overlap))


def test_fid_is_that_of_torchmetrics_where_that_is_exact() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    from immiscible.evaluation.scores import _AsTheyAre

    x, y = torch.randn(2, 200, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    metric = FrechetInceptionDistance(_AsTheyAre(7), sync_on_compute=False)
    metric.update(x, real=True)
    metric.update(2 * y + 1, real=False)
    assert frechet_distance(2 * y + 1, x) == pytest.approx(metric.compute().item(), rel=1e-6)
    # Of fewer images than features the covariances have no full rank: features that are always 0 change nothing.
    wide, other = (torch.nn.functional.pad(points, (0, 300)) for points in (2 * y + 1, x))
    assert frechet_distance(wide, other) == pytest.approx(metric.compute().item(), rel=1e-6)


def test_fid_of_gaussians_approaches_that_of_their_laws() -> None:
    """For N(0, I) against N(m, 4 I) in d dimensions it is |m|^2 + d (2 - 1)^2."""
    x, y = points(20_000), 2 * points(20_000, seed=1) + 3
    assert frechet_distance(y, x) == pytest.approx(5 * 9 + 5, rel=0.03)


def brute_force_kid(x: Tensor, y: Tensor) -> float:
    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    between = sum(kernel(a, b) for a in x for b in y) / (n * m)
    return within_x + within_y - 2 * between


def test_kid_is_the_squared_discrepancy() -> None:
    x, y = points(9, dim=3), points(9, dim=3, seed=1) + 0.5
    assert kernel_distance(x, y) == pytest.approx(brute_force_kid(x, y))


def test_kid_is_not_biased() -> None:
    """Over pairs of sets of one law it is zero on average, so it has either sign, and otherwise it is positive."""
    equal = torch.tensor([kernel_distance(points(40, 2, seed), points(40, 2, 100 + seed)) for seed in range(40)])
    assert (equal < 0).any()
    assert (equal > 0).any()
    assert abs(equal.mean()) < 3 * equal.std() / math.sqrt(40)
    assert kernel_distance(points(40, 2) + 1, points(40, 2, 1)) > 20 * equal.std()


def test_kid_adapts_its_subsets_to_the_smaller_set() -> None:
    for count in (2, 30, 600):
        assert math.isfinite(kernel_distance(points(count), points(550, seed=1)))


def brute_force_radius(x: Tensor, i: int, neighbours: int) -> float:
    return sorted(math.dist(x[i].tolist(), x[j].tolist()) for j in range(len(x)) if j != i)[neighbours - 1]


def brute_force_share(inner: Tensor, outer: Tensor) -> float:
    radii = [brute_force_radius(outer, i, 3) for i in range(len(outer))]
    hits = [any(math.dist(p.tolist(), c.tolist()) <= r for c, r in zip(outer, radii, strict=True)) for p in inner]
    return sum(hits) / len(hits)


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_precision_and_recall_match_brute_force(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("immiscible.evaluation.scores.CHUNK", chunk)
    real, generated = points(31, 2), 0.5 * points(23, 2, seed=1) + 1.5
    for k in (1, 3):
        expected = [brute_force_radius(real, i, k) for i in range(31)]
        assert_close(neighbour_radii(real, k), torch.tensor(expected, dtype=torch.float64))
    shares = [brute_force_share(generated, real), brute_force_share(real, generated)]
    assert 0 < shares[1] < shares[0] < 1
    assert covered(generated, real, neighbour_radii(real)) == shares[0]
    assert covered(real, generated, neighbour_radii(generated)) == shares[1]


def test_a_set_scores_perfectly_against_itself() -> None:
    scores = score(images(200), reference())
    assert scores.fid == pytest.approx(0, abs=1e-9)
    assert scores.kid < 0
    assert (scores.precision, scores.recall) == (1, 1)


def test_a_dropped_mode_lowers_recall_and_not_precision() -> None:
    left, right = images(300, scale=0.1) - 0.5, images(300, seed=1, scale=0.1) + 0.5
    both = Reference(Flat(), Images("some", torch.cat([left, right])))
    new_left, new_right = images(300, seed=2, scale=0.1) - 0.5, images(300, seed=3, scale=0.1) + 0.5
    one, full = score(new_left, both), score(torch.cat([new_left, new_right]), both)
    assert min(one.precision, full.precision, full.recall) > 0.8
    assert one.recall < 0.51


def test_noise_scores_low_in_precision() -> None:
    assert score(images(200, seed=1, scale=5.0), reference()).precision < 0.1


def test_generated_and_real_images_keep_their_roles() -> None:
    """Real images in two places and generated ones in one: all of those look real, half of the real ones are missed."""
    scores = score(images(50, scale=0.01), Reference(Flat(), Images("some", torch.cat([images(50), -images(50)]))))
    assert scores.precision > scores.recall


def test_scores_repeat_and_leave_the_random_state_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = score(images(600, seed=1), reference(700))
    assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    torch.manual_seed(1)
    assert score(images(600, seed=1), reference(700)) == first


def test_scores_are_told_by_name() -> None:
    assert Scores(1.0, 2.0, 3.0, 4.0).as_dict() == {"fid": 1.0, "kid": 2.0, "precision": 3.0, "recall": 4.0}
    assert all(type(value) is float for value in score(images(20), reference(20)).as_dict().values())


def test_real_images_are_embedded_once() -> None:
    features = Flat()
    known = Reference(features, Images("some", images(50)), batch_size=16)
    assert features.seen == 50
    assert_close(known.values, images(50).flatten(1).double())
    score(images(20, seed=1), known)
    score(images(20, seed=2), known)
    assert features.seen == 90


def test_too_many_real_images_are_thinned_evenly() -> None:
    known = Reference(Flat(), Images("some", images(50)), limit=10)
    assert_close(known.values, images(50)[::5].flatten(1).double())
    assert known.radii.shape == (10,)


def test_values_beyond_the_range_are_clamped() -> None:
    bright = images(50, seed=1).sign()
    assert score(3 * bright, reference()) == score(bright, reference())


def test_other_floats_are_scored_alike() -> None:
    halves = images(50, seed=1).half()
    assert score(halves, reference()) == score(halves.float(), reference())


@pytest.mark.parametrize(
    ("generated", "problem"),
    [
        (torch.zeros(3, 3, 2, 2), "at least 4 generated images, got 3"),
        (torch.zeros(0, 3, 2, 2), "at least 4 generated images, got 0"),
        (torch.zeros(9, 3, 2, 3), r"\(N, 3, 2, 2\).*got torch.float32 with \(9, 3, 2, 3\)"),
        (torch.zeros(9, 12), r"\(N, 3, 2, 2\)"),
        (torch.zeros(9, 3, 2, 2, dtype=torch.uint8), "floats.*uint8"),
        (torch.full((9, 3, 2, 2), torch.nan), "finite"),
        (torch.full((9, 3, 2, 2), torch.inf), "finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(generated: Tensor, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        score(generated, reference())


def test_too_few_real_images_are_refused() -> None:
    with pytest.raises(InputError, match="at least 4 real images, got 3 of some"):
        reference(3)
    assert math.isfinite(score(images(4, seed=1), reference(4)).fid)
