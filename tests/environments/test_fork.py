"""The scores of the fork are those that policies of known laws must have."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from immiscible.data.demonstrations.fork import NOISE, centres, demonstrate, share
from immiscible.environments.fork import exact, score_on_fork
from immiscible.environments.rollouts import Act
from immiscible.errors import InputError
from immiscible.seeds import seeded


def going(left: float | None, noise: float = NOISE) -> Act:
    """A policy that goes left as often as is said, or, with None, as the law says."""

    def act(observations: Tensor, draws: Sequence[int]) -> Tensor:
        seen = observations[:, -1]
        tossed = torch.stack([torch.rand((), generator=seeded(draw)) for draw in draws])
        ways = centres(seen)[torch.arange(len(seen)), (tossed >= (share(seen) if left is None else left)).long()]
        drawn = torch.stack([torch.randn(16, 2, generator=seeded(draw + 1)) for draw in draws])
        return torch.cat([ways[:, :1], ways[:, :15]], 1) + noise * drawn

    return act


def between(observations: Tensor, draws: Sequence[int]) -> Tensor:
    """The mean path."""
    seen = observations[:, -1]
    ways, chance = centres(seen), share(seen).view(-1, 1, 1)
    mean = chance * ways[:, 0] + (1 - chance) * ways[:, 1]
    return torch.cat([mean[:, :1], mean[:, :15]], 1)


def test_an_exact_policy_has_what_chance_leaves() -> None:
    found = score_on_fork(exact)
    # The mean distance of a share of 100 tosses from its probability.
    assert found.share_error == pytest.approx(math.sqrt(2 / math.pi * 0.17 / 100), rel=0.2)
    assert found.calibration_error < found.share_error
    assert found.mean_error < 0.03
    assert found.variance_error < 0.1
    assert found.spread == pytest.approx(1, abs=0.02)
    assert found.strays == 0
    assert sum(each.observations for each in found.bins) == 100
    assert score_on_fork(exact) == found != score_on_fork(exact, seed=1)
    assert json.loads(json.dumps(found.as_json()))["bins"][0]["observations"] == found.bins[0].observations


def test_the_exact_policy_has_the_law_of_the_demonstrations() -> None:
    """A policy that only remembers demonstrations, of the nearest observation, scores as well as there are many."""
    data = demonstrate(5, episodes=4000)
    begins, paths = data.observations[data.starts, :2], data.actions.view(-1, 16, 2)

    def remembering(observations: Tensor, draws: Sequence[int]) -> Tensor:
        near = torch.cdist(observations[:, -1, :2], begins).topk(20, largest=False)[1]
        chosen = near[torch.arange(len(near)), torch.tensor([draw % 20 for draw in draws])]
        # Where it goes relative to the obstacle.
        path = paths[chosen] + torch.stack(
            [torch.zeros(len(near)), observations[:, -1, 0] - begins[chosen, 0]], -1
        ).unsqueeze(1)
        return torch.cat([path[:, :1], path[:, :15]], 1)

    found = score_on_fork(remembering)
    assert found.share_error < 0.13
    assert found.spread == pytest.approx(1, abs=0.05)
    assert found.strays == 0


def test_a_policy_that_tosses_a_coin_has_the_wrong_shares_and_is_calibrated() -> None:
    found = score_on_fork(going(0.5), observations=400)
    assert found.share_error == pytest.approx(0.8 / math.pi, abs=0.02)
    assert found.calibration_error < 0.1
    assert found.spread == pytest.approx(1, abs=0.02)


def test_a_policy_that_always_goes_left_is_wrong_by_all_that_goes_right() -> None:
    found = score_on_fork(going(1.0), observations=400)
    assert found.share_error == pytest.approx(0.5, abs=0.03)
    assert found.calibration_error == pytest.approx(found.share_error)
    assert [round(each.planned, 6) for each in found.bins] == [1.0]
    assert found.mean_error > 0.15
    assert found.variance_error > 0.5


def test_a_policy_between_the_ways_has_the_mean_and_nothing_else() -> None:
    found = score_on_fork(between)
    assert found.mean_error < 1e-6
    assert found.variance_error == pytest.approx(1)
    assert found.strays > 0.3


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_spread_is_that_of_the_noise(noise: float) -> None:
    assert score_on_fork(going(None, noise * NOISE)).spread == pytest.approx(noise, rel=0.03)


def test_observations_are_of_the_beginning_and_draws_differ() -> None:
    given, seeds = [], []

    def act(observations: Tensor, draws: Sequence[int]) -> Tensor:
        given.append(observations)
        seeds.extend(draws)
        return exact(observations, draws)

    score_on_fork(act, observations=300, plans=5)
    whole = torch.cat(given)
    assert whole.shape == (1500, 2, 3)
    torch.testing.assert_close(whole[:, 0], whole[:, 1])
    assert (whole[:, :, 2] == 0).all()
    assert len(set(seeds)) == 1500
    assert len(whole[:, 0].unique(dim=0)) == 300


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(InputError, match="an observation and two plans at least, got 0 and 5"):
        score_on_fork(exact, observations=0, plans=5)
    with pytest.raises(InputError, match=r"must have shape \(4, 16, 2\), got \(4, 16, 3\)"):
        score_on_fork(lambda seen, _: torch.zeros(len(seen), 16, 3), observations=2, plans=2)
    with pytest.raises(InputError, match="must be finite"):
        score_on_fork(lambda seen, _: torch.full((len(seen), 16, 2), torch.nan), observations=2, plans=2)
