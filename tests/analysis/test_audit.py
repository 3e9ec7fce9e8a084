from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor

from immiscible.analysis import audit as module
from immiscible.analysis.audit import audit, holm
from immiscible.analysis.batches import Batches
from immiscible.couplings import InSpace, LinearAssignment, Mixed
from immiscible.couplings.spaces import CostSpace
from immiscible.errors import InputError


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    return torch.tensor(bunch.images / 8 - 1).float()[:, None], torch.tensor(bunch.target)


def shifted() -> Tensor:
    """Data with a strong mean: they vary little around it."""
    return 1 + 0.3 * torch.randn(400, 3, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spelling", ["independent", "assignment", "assignment:32", "assignment@0.5", "knn:1"])
def test_exact_couplings_pass(digits, spelling: str, seed: int) -> None:
    for data in (digits[0], shifted()):
        result = audit(data, spelling, Batches(16, 128, seed=seed))
        assert result.passed, result.failed
        assert result.least_p > result.level
        assert result.norm_ratio == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_assignment_within_classes_passes(digits, seed: int) -> None:
    for coupling in (LinearAssignment(), Mixed(LinearAssignment(block=16), 0.5)):
        result = audit(digits[0], coupling, Batches(16, 128, labels=digits[1], seed=seed))
        assert result.passed, result.failed


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spelling", ["knn:4", "knn:4:dot", "knn:2@0.5"])
def test_biased_couplings_fail(digits, spelling: str, seed: int) -> None:
    for data in (digits[0], shifted()):
        result = audit(data, spelling, Batches(16, 256, seed=seed))
        assert not result.passed
        assert result.least_p < 1e-6


def test_what_is_wrong_is_named(digits) -> None:
    raw = audit(digits[0], "knn:4").failed
    assert {"length: mean", "length: law", "mean noise", "mean of the data: mean"} <= raw.keys()
    centre = digits[0].mean(0)
    dot = audit(digits[0], InSpace(module.parse_coupling("knn:8:dot"), CostSpace(centre=centre)))
    # Ranked on centred data it shifts nothing, and stretches the leading components.
    assert "component 1: variance" in dot.failed
    assert dot.statistics[3].name == "component 1"
    assert dot.statistics[3].variance > 1.1
    assert dot.mean_shift_p > 0.001


def test_a_change_of_shape_alone_is_seen(digits) -> None:
    # Along one axis uniform instead of normal, with mean 0 and variance 1: of the tests only two can see it.
    def flat(x, noise, *, labels=None, generator=None):
        axis = torch.full((64,), 1 / 8)
        along = noise.flatten(1) @ axis
        wanted = (torch.special.ndtr(along) - 0.5) * 12**0.5
        return (noise.flatten(1) + (wanted - along)[:, None] * axis).view(noise.shape)

    result = audit(digits[0], flat)
    assert {"mean value: kurtosis", "mean value: law"} <= result.failed.keys()
    assert result.statistics[1].kurtosis == pytest.approx(-1.2, abs=0.1)


@pytest.mark.parametrize("count", [100, 3000])
def test_scores_are_those_of_scipy(count: int) -> None:
    draws = np.random.default_rng(count)
    for values in (draws.normal(size=count), draws.standard_t(8, count), draws.gamma(9, size=count) / 3 - 3):
        ours = module._statistic("some", torch.from_numpy(values))
        assert ours.skew_z == pytest.approx(stats.skewtest(values).statistic, rel=1e-9)
        assert ours.kurtosis_z == pytest.approx(stats.kurtosistest(values).statistic, rel=1e-9)
        expected = stats.kstest(values, "norm")
        assert ours.ks == pytest.approx(expected.statistic, rel=1e-12)
        assert ours.ks_p == pytest.approx(expected.pvalue, abs=0.004, rel=0.02)
        sides = stats.chi2(count - 1)
        assert ours.variance_z == pytest.approx(
            stats.norm.isf(sides.sf((count - 1) * values.var(ddof=1))), abs=0.02, rel=0.02
        )


@pytest.mark.parametrize("dims", [1, 64, 3072])
def test_lengths_become_normal_scores(dims: int) -> None:
    squares = stats.chi2(dims).ppf([1e-12, 0.01, 0.5, 0.99, 1 - 1e-12])
    scores = module._normal_scores(torch.from_numpy(squares), dims)
    expected = torch.tensor(stats.norm.ppf([1e-12, 0.01, 0.5, 0.99, 1 - 1e-12]))
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    assert module._normal_scores(torch.tensor([0.0, 1e9]).double(), dims).tolist() == [-8, 8]


def test_correction_for_many_tests() -> None:
    torch.testing.assert_close(holm(torch.tensor([0.04, 0.03, 0.001])), torch.tensor([0.06, 0.06, 0.003]))


def test_exact_noise_fails_about_as_often_as_the_level_says() -> None:
    # A large level, so that a few dozen audits say something: the correction never lets more than that fail.
    data = torch.randn(128, 5, generator=torch.Generator().manual_seed(3))
    failures = sum(not audit(data, "independent", Batches(2, 128, seed=seed), level=0.3).passed for seed in range(60))
    assert 1 <= failures <= 26


def test_audit_is_written_down(digits) -> None:
    done = []
    result = audit(digits[0], "knn:2", Batches(4, 64), progress=lambda *now: done.append(now))
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    read = json.loads(json.dumps(result.as_dict()))
    assert read["coupling"] == "knn:2"
    assert read["noises"] == 256
    assert read["tests"] == 5 * len(read["statistics"]) + 1
    assert read == json.loads(json.dumps(audit(digits[0].numpy(), "knn:2", Batches(4, 64)).as_dict()))


def test_small_and_constant_data() -> None:
    assert audit(torch.zeros(10, 3), "independent").passed
    assert audit(torch.arange(50.0), "assignment").passed
    assert not audit(torch.ones(10, 3), lambda x, noise, **_: 0 * noise).passed


@pytest.mark.parametrize(
    ("keywords", "coupling", "message"),
    [
        ({"batches": Batches(1, 64)}, "independent", "at least 100 noises, got 64"),
        ({"batches": Batches(0)}, "independent", "`batches` must be a whole number"),
        ({"level": 1.0}, "independent", r"`level` must be in \(0, 1\)"),
        ({"batches": Batches(labels=torch.zeros(3).long())}, "independent", "`labels` must have shape"),
        ({}, lambda x, noise, **_: noise[:1], "must return finite noise"),
        ({}, lambda x, noise, **_: noise / 0, "must return finite noise"),
        ({}, "nearest", "unknown coupling"),
    ],
)
def test_bad_input_gets_one_line(digits, keywords, coupling, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        audit(digits[0], coupling, **keywords)
    assert "\n" not in str(caught.value)
