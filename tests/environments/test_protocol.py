"""The protocol of modes: starts are symmetric, turns have a sign, and shares are counted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from immiscible.environments.intervals import Interval
from immiscible.environments.protocol import Modes, even_dominance, modes_of, rotation, symmetric_starts
from immiscible.environments.pusht import PushT, mirror_actions, mirror_states
from immiscible.environments.rollouts import Act, Episode, roll_out
from immiscible.seeds import seeded

COVERAGE = Interval(0.5, 0.4, 0.6)


def hooking(sign: int) -> Act:
    """A policy that drags the disc across one arm of the bar, on the side of the axis that the sign says."""

    def act(observations: Tensor, draws: Sequence[int]) -> Tensor:
        block, angle = observations[:, -1, 2:4], observations[:, -1, 4]
        along = torch.stack([angle.cos(), angle.sin()], -1)
        across = torch.stack([-angle.sin(), angle.cos()], -1)
        way = torch.linspace(-60, 60, 16).view(1, 16, 1)
        return block.unsqueeze(1) + 45 * sign * along.unsqueeze(1) + way * across.unsqueeze(1)

    return act


def coin(observations: Tensor, draws: Sequence[int]) -> Tensor:
    """Hooks on either side, by the noise of the first plan; later the side that the disc is on."""
    plans = torch.stack([hooking(sign)(observations, draws) for sign in (1, -1)])
    off_axis = (observations[:, -1, :2].sum(1) - 512).sign()
    tossed = torch.tensor([float(torch.randn(1, generator=seeded(draw)).sign()) for draw in draws])
    side = torch.where(off_axis.abs() > 0, off_axis, tossed)
    return torch.where(side.view(-1, 1, 1) < 0, plans[0], plans[1])


def turned(*angles: float) -> Episode:
    states = np.zeros((len(angles), 5))
    states[:, 4] = np.mod(angles, 2 * math.pi)
    return Episode(0, states[0], states, np.zeros((len(angles) - 1, 2)), np.zeros(len(angles)), len(angles))


def test_starts_are_their_own_mirror_images_and_touch_nothing() -> None:
    starts = symmetric_starts()
    assert len({tuple(start) for start in starts}) == len(starts) == 6
    for start in starts:
        torch.testing.assert_close(mirror_states(torch.from_numpy(start)), torch.from_numpy(start))
        simulator = PushT()
        np.testing.assert_allclose(simulator.place(start), start, rtol=0, atol=1e-9)
        for _ in range(5):
            np.testing.assert_allclose(simulator.step(start[:2]), start, rtol=0, atol=1e-9)
        assert simulator.coverage < 0.5


@pytest.mark.parametrize("number", range(6))
def test_the_mirrored_policy_turns_the_other_way_by_as_much(number: int) -> None:
    def mirrored(observations: Tensor, draws: Sequence[int]) -> Tensor:
        return mirror_actions(hooking(1)(mirror_states(observations), draws))

    start = symmetric_starts()[number]
    (one,) = roll_out(hooking(1), [0], states=[start], max_steps=24)
    (other,) = roll_out(mirrored, [0], states=[start], max_steps=24)
    assert abs(rotation(one)) > 0.1
    assert rotation(other) == pytest.approx(-rotation(one), abs=1e-3)
    images = mirror_states(torch.from_numpy(one.states)).numpy()
    # Observations are float32.
    np.testing.assert_allclose(other.states[:, :4], images[:, :4], rtol=0, atol=1e-2)
    np.testing.assert_allclose(other.coverages, one.coverages, rtol=0, atol=1e-3)


def test_turns_count_beyond_the_ends_of_the_scale() -> None:
    assert rotation(turned(6.0, 6.2, 6.4, 7.0)) == pytest.approx(1.0)
    assert rotation(turned(0.2, -0.4, -1.0)) == pytest.approx(-1.2)
    assert rotation(turned(*np.linspace(0, 7, 30))) == pytest.approx(7)


def test_shares_are_of_the_episodes_that_decided() -> None:
    found = Modes(symmetric_starts()[0], (3.1, 2.9, 1.6, -3.0, 0.4, -1.5, 0.0, -0.1), COVERAGE)
    assert found.clockwise is not None
    assert found.clockwise.value == 0.75
    assert found.dominance == 0.75
    assert found.total_variation == 0.25
    assert found.undecided == 0.5
    assert found.even_dominance == even_dominance(4) == pytest.approx(0.6875)
    other = Modes(found.start, tuple(-turn for turn in found.rotations), COVERAGE)
    assert other.dominance == found.dominance
    written = other.as_json()
    assert written["clockwise"][0] == 0.25
    assert written["coverage"] == [0.5, 0.4, 0.6]


def test_where_nothing_was_decided_there_are_no_shares() -> None:
    found = Modes(symmetric_starts()[0], (0.1, -0.2), COVERAGE)
    assert found.clockwise is found.dominance is found.total_variation is found.even_dominance is None
    assert found.undecided == 1
    assert found.as_json()["dominance"] is None


def test_a_fair_coin_has_more_heads_or_more_tails() -> None:
    tossed = np.random.default_rng(0).binomial(20, 0.5, 100_000) / 20
    assert even_dominance(20) == pytest.approx(np.maximum(tossed, 1 - tossed).mean(), abs=1e-3)


def test_a_policy_that_always_turns_one_way_and_one_that_tosses_a_coin(monkeypatch: pytest.MonkeyPatch) -> None:
    # These policies turn the T a little only.
    monkeypatch.setattr("immiscible.environments.protocol.DECIDED", 0.05)
    starts = symmetric_starts()[:1]
    (always,) = modes_of(hooking(1), episodes=4, starts=starts, max_steps=16)
    assert always.dominance == 1
    assert always.undecided == 0
    (fair,) = modes_of(coin, episodes=24, starts=starts, max_steps=16)
    assert fair.clockwise is not None
    assert fair.clockwise.low < 0.5 < fair.clockwise.high
    assert fair.dominance is not None
    assert fair.dominance < 0.8
    (again,) = modes_of(coin, episodes=24, starts=starts, max_steps=16)
    assert again.rotations == fair.rotations
