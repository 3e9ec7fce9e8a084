from __future__ import annotations

import json

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from torch import Tensor

from immiscible.analysis import leak as module
from immiscible.analysis.batches import Batches
from immiscible.analysis.leak import Leak, leak, ridge
from immiscible.errors import InputError


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    bunch = load_digits()
    return torch.tensor(bunch.images / 8 - 1).float()[:, None], torch.tensor(bunch.target)


@pytest.fixture(scope="module")
def actions() -> tuple[Tensor, Tensor]:
    """Chunks of 8 actions with 2 numbers each, a linear function of 4 observed numbers but for a little rest."""
    draws = torch.Generator().manual_seed(0)
    observed = torch.randn(1500, 4, generator=draws)
    weights = torch.randn(4, 16, generator=draws) / 2
    return (observed @ weights + 0.2 * torch.randn(1500, 16, generator=draws)).view(-1, 8, 2), observed


@pytest.mark.parametrize("seed", range(2))
def test_independent_noise_tells_nothing(digits, actions, seed: int) -> None:
    batches = Batches(16, 128, seed=seed)
    read = leak(*digits, "independent", batches)
    assert read.excess == 0
    assert abs(read.score - read.chance) < 4 * read.error
    assert not read.leaks
    observed = leak(*actions, "independent", batches)
    assert -0.02 < observed.score < 0.02
    assert observed.excess == 0


def test_an_assignment_tells_the_class(digits) -> None:
    read = leak(*digits, "assignment")
    assert read.measure == "accuracy"
    assert read.chance == pytest.approx(0.1, abs=0.02)
    assert read.score > 0.3
    assert abs(read.floor - read.chance) < 4 * read.floor_error
    assert read.leaks
    assert leak(*digits, "assignment@0.5").score < read.score


@pytest.mark.parametrize("seed", range(2))
def test_an_assignment_within_classes_tells_no_class(digits, seed: int) -> None:
    x, labels = digits
    read = leak(x, labels, "assignment", Batches(16, 256, labels=labels, seed=seed))
    assert abs(read.excess) < 3 * read.excess_error
    assert not read.leaks


@pytest.mark.parametrize("spelling", ["knn:16", "knn:4:dot"])
def test_knn_tells_the_class_too(digits, spelling: str) -> None:
    assert leak(*digits, spelling).leaks


def test_an_assignment_of_actions_tells_the_observation_and_of_residuals_does_not(actions) -> None:
    x, observed = actions
    read = leak(x, observed, "assignment")
    assert read.measure == "R^2"
    assert read.score > 0.3
    assert read.leaks
    assert abs(read.floor) < 0.02
    predicted = Ridge(1e-3).fit(observed, x.flatten(1)).predict(observed)
    residual = x - torch.from_numpy(predicted).view(x.shape).float()
    assert abs(leak(residual, observed, "assignment").score) < 0.02


def test_a_residual_whose_sign_the_condition_tells_is_found_by_the_other_side_alone() -> None:
    draws = torch.Generator().manual_seed(0)
    observed = 2 * torch.rand(4000, 1, generator=draws) - 1
    # Which way it goes depends on the condition, uncorrelated with it: no linear map of the condition says so.
    way = torch.where(observed.abs() > 0.5, 1.0, -1.0)
    x = torch.cat([3 * way, torch.randn(4000, 3, generator=draws)], 1)
    read = leak(x, observed, "assignment", Batches(16, 256))
    assert abs(read.excess) < 0.02
    assert read.told > 0.1
    assert read.leaks
    assert "the condition tells" in read.said()
    free = leak(x, observed, "independent", Batches(16, 256))
    assert free.told == 0
    assert not free.leaks


def test_length_and_squares_are_read() -> None:
    # Noise whose length, or whose spread along the leading component, tells the condition, and nothing else does.
    x = torch.randn(600, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 1, 1, 1, 1, 1])
    high = (x[:, 0] > 0).long()

    def length(x, noise, **_):
        return torch.where(x[:, :1] > 0, 1.5, 0.5) * noise

    def spread(x, noise, **_):
        return torch.cat([torch.where(x[:, :1] > 0, 2.0, 0.3) * noise[:, :1], noise[:, 1:]], 1)

    for coupling in (length, spread):
        read = leak(x, high, coupling, Batches(16, 128))
        assert read.score > 0.65
        assert read.floor == pytest.approx(0.5, abs=0.05)


def test_regression_is_that_of_scikit_learn_at_the_penalty_chosen() -> None:
    draws = torch.Generator().manual_seed(0)
    features = torch.randn(200, 9, generator=draws, dtype=torch.float64) * torch.arange(9)
    wanted = features[:, [1, 5]] + torch.randn(200, 2, generator=draws, dtype=torch.float64)
    others = torch.randn(50, 9, generator=draws, dtype=torch.float64)
    standard = (features - features.mean(0)) / features.std(0, correction=0).clamp_min(1e-9)
    apart = (others - features.mean(0)) / features.std(0, correction=0).clamp_min(1e-9)
    apart[:, 0] = 0
    # Generalised cross-validation written out, with the hat matrix.
    centred = standard.clone()
    scores = []
    for penalty in module.PENALTIES:
        hat = centred @ torch.linalg.solve(centred.T @ centred + 200 * penalty * torch.eye(9), centred.T)
        left = (torch.eye(200) - hat) @ (wanted - wanted.mean(0))
        scores.append(float(left.square().sum() / (1 - (hat.trace() + 1) / 200) ** 2))
    best = float(module.PENALTIES[torch.tensor(scores).argmin()])
    expected = torch.from_numpy(Ridge(200 * best).fit(standard.numpy(), wanted.numpy()).predict(apart.numpy()))
    torch.testing.assert_close(ridge(features, wanted, others), expected, rtol=1e-8, atol=1e-8)


def test_scores_are_those_of_scikit_learn_and_errors_those_of_repetitions() -> None:
    draws = torch.Generator().manual_seed(0)
    wanted = torch.randn(400, 3, generator=draws, dtype=torch.float64) * torch.tensor([1.0, 2.0, 5.0])
    predicted = wanted + torch.randn(400, 3, generator=draws, dtype=torch.float64)
    whole = [torch.ones(400, dtype=torch.bool)]
    score = module._score(module._Predicted(predicted, wanted, whole), classes=False)
    assert score.value == pytest.approx(r2_score(wanted, predicted, multioutput="variance_weighted"))
    assert float(score.parts.mean()) == pytest.approx(0, abs=1e-12)
    values = []
    for _ in range(300):
        again = torch.randint(400, (400,), generator=draws)
        values.append(module._score(module._Predicted(predicted[again], wanted[again], whole), classes=False).value)
    assert score.error(torch.arange(400)) == pytest.approx(float(torch.tensor(values).std()), rel=0.2)
    # Pairs of one datum that are copies are as good as one.
    twice = module.Score(score.value, score.parts.repeat(2))
    assert twice.error(torch.arange(400).repeat(2)) == pytest.approx(score.error(torch.arange(400)))


def test_data_are_never_seen_both_ways() -> None:
    index = torch.tensor([5, 2, 5, 9, 2, 7, 9, 5])
    first, second = module._halves(index, torch.zeros(10), 0)
    assert torch.equal(first, ~second)
    assert not set(index[first].tolist()) & set(index[second].tolist())
    assert len(set(index[first].tolist())) == 2
    classes = torch.tensor([0] * 60 + [1] * 40)
    first, second = module._halves(torch.arange(100), classes, 0)
    assert classes[first].sum() == classes[second].sum() == 20
    # Within a class at random.
    assert len(set(first[:60].nonzero()[:, 0].diff().tolist())) > 1


def test_guessing_is_no_worse_than_chance_where_classes_are_small() -> None:
    # Halves without half of each class would give 0.24: what is common in one is rare in the other.
    x, classes = torch.randn(24, 2, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3
    floors = [leak(x, classes, "independent", Batches(40, 24, seed=seed)).floor for seed in range(8)]
    assert sum(floors) / len(floors) == pytest.approx(1 / 3, abs=0.03)


def test_it_is_written_down(actions) -> None:
    done = []
    read = leak(actions[0].numpy(), actions[1][:, 0], "knn:2", Batches(2, 64), progress=lambda *now: done.append(now))
    assert done == [(1, 2), (2, 2)]
    written = json.loads(json.dumps(read.as_dict()))
    assert written["pairs"] == 128
    assert written["features"] == 33
    assert written["batch_size"] == 64
    assert written["coupling"] == "knn:2"
    assert written["chance"] == 0


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (torch.zeros(30), "the condition must vary"),
        (torch.zeros(30).long(), "the condition must vary"),
        (torch.zeros(29), "a row for each of 30 data"),
        ([1, 2], "a row for each of 30 data, got list"),
        (torch.full((30, 2), torch.nan), "must be finite"),
        (torch.zeros(30, 2).long(), r"classes must have shape \(30,\)"),
        (torch.arange(30), "at least 100 pairs, got 60"),
    ],
)
def test_bad_input_gets_one_line(condition, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        leak(torch.randn(30, 2), condition, "independent", Batches(2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("score", "leaks", "said"), [(0.3, True, "tells of"), (0.003, True, "tells next to nothing of")]
)
def test_what_is_said_of_a_leak_is_as_large_as_it_is(score: float, leaks: bool, said: str) -> None:
    measured = Leak("assignment", "R^2", score, 0.001, 0.0, 0.001, score, 0.001, 0.0, leaks, 1000, 32, 256)
    assert f"the noise {said} the condition: R^2 = {score:.3f}" in measured.said()
