"""Roll-outs: what a policy sees, what of its plans is carried out, and what is measured of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from immiscible.environments.planner import attempt
from immiscible.environments.pusht import GOAL, PushT, scene
from immiscible.environments.rollouts import MEASURES, Episode, differences, roll_out, summarize
from immiscible.errors import InputError
from immiscible.seeds import seeded

AWAY = np.array([80, 80, 300, 300, 1.0])


def wandering(observations: Tensor, draws: Sequence[int]) -> Tensor:
    """Plans of 16 actions about the block, by noise."""
    noise = torch.stack([torch.randn(16, 2, generator=seeded(draw)) for draw in draws])
    return observations[:, -1:, 2:4] + 60 * noise


def staying(observations: Tensor, draws: Sequence[int]) -> Tensor:
    return observations[:, -1:, :2].expand(-1, 16, -1)


def episode(seed: int, *coverages: float, steps: int = 4) -> Episode:
    actions = np.zeros((len(coverages) - 1, 2))
    return Episode(seed, scene(seed), np.zeros((len(coverages), 5)), actions, np.array(coverages), steps)


def test_the_same_call_gives_the_same_episodes() -> None:
    one, other = (roll_out(wandering, [3, 5], max_steps=20) for _ in range(2))
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first.states, second.states)
        np.testing.assert_array_equal(first.coverages, second.coverages)
    assert not np.array_equal(one[0].actions, one[1].actions)


def test_an_episode_is_that_of_its_seed_whichever_are_beside_it() -> None:
    alone, beside = roll_out(wandering, [5], max_steps=20)[0], roll_out(wandering, [3, 5, 8], max_steps=20)[1]
    assert alone.seed == beside.seed == 5
    np.testing.assert_array_equal(alone.states, beside.states)


def test_more_than_fit_side_by_side_are_rolled_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = roll_out(wandering, [3, 5, 8], max_steps=9)
    monkeypatch.setattr("immiscible.environments.rollouts.AT_ONCE", 2)
    for one, other in zip(whole, roll_out(wandering, [3, 5, 8], max_steps=9), strict=True):
        np.testing.assert_array_equal(one.states, other.states)


def test_an_episode_is_what_its_actions_do_in_the_simulator() -> None:
    (rolled,) = roll_out(wandering, [7], max_steps=20)
    simulator = PushT()
    np.testing.assert_array_equal(simulator.begin(7), rolled.states[0])
    for action, state, coverage in zip(rolled.actions, rolled.states[1:], rolled.coverages[1:], strict=True):
        np.testing.assert_array_equal(simulator.step(action), state)
        assert simulator.coverage == coverage
    assert np.abs(rolled.states[-1, 2:] - rolled.states[0, 2:]).max() > 1


def test_plans_begin_with_the_oldest_state_and_are_carried_out_from_the_last_one_on() -> None:
    seen, seeds = [], []

    def counting(observations: Tensor, draws: Sequence[int]) -> Tensor:
        seen.append(observations)
        seeds.append(tuple(draws))
        return (100.0 + torch.arange(16)).view(1, 16, 1).expand(len(observations), 16, 2)

    one, _ = roll_out(counting, [0, 0], states=[AWAY, AWAY], history=3, executed=5, max_steps=12)
    assert one.actions[:, 0].tolist() == [102, 103, 104, 105, 106] * 2 + [102, 103]
    assert [tuple(each.shape) for each in seen] == [(2, 3, 5)] * 3
    assert seen[0].dtype == torch.float32
    # At the beginning there is one state only.
    torch.testing.assert_close(seen[0][0], torch.from_numpy(np.stack([AWAY] * 3)).float())
    torch.testing.assert_close(seen[1][0], torch.from_numpy(one.states[3:6]).float())
    # Noise depends on the episode's seed and on the time.
    assert all(first == second for first, second in seeds)
    assert len(set(seeds)) == 3


def test_a_demonstration_that_is_planned_again_window_by_window_comes_out_as_it_was() -> None:
    """Windows begin a frame before the first, which repeats it, as those that policies are trained on."""
    shown = attempt(0, 0)
    actions = torch.from_numpy(np.stack([shown.actions[0], *shown.actions, *[shown.actions[-1]] * 16]))
    times = iter(range(0, 300, 8))

    def remembering(observations: Tensor, draws: Sequence[int]) -> Tensor:
        return actions[(time := next(times)) : time + 16].unsqueeze(0)

    (rolled,) = roll_out(remembering, [0], states=[shown.scene])
    assert rolled.success
    assert rolled.coverages[1:].tolist() == shown.coverage


def test_an_episode_ends_with_success() -> None:
    covered = np.array([80, 80, *GOAL])
    near, far = roll_out(staying, [0, 1], states=[covered, AWAY], max_steps=5)
    assert near.success
    assert len(near.actions) == 0
    assert near.score == 1
    assert near.coverage == pytest.approx(1)
    assert not far.success
    assert len(far.actions) == 5
    assert far.coverage == pytest.approx(far.last_coverage) == pytest.approx(far.score * 0.95)


def test_a_plan_that_succeeds_is_not_carried_out_to_its_end() -> None:
    def pushing(observations: Tensor, draws: Sequence[int]) -> Tensor:
        """Along the goal's axis, through the goal and beyond."""
        way = torch.linspace(30, -50, 16)
        return (256 + torch.stack([way, -way], -1)).unsqueeze(0)

    short = np.array([290, 222, GOAL[0] + 8, GOAL[1] - 8, GOAL[2]])
    (rolled,) = roll_out(pushing, [0], states=[short], max_steps=8)
    assert rolled.coverages[0] < 0.95 < rolled.last_coverage
    assert 1 < len(rolled.actions) < 8
    assert (rolled.coverages[:-1] <= 0.95).all()


def test_measures_of_an_episode() -> None:
    rolled = episode(0, 0.2, 0.6, 0.4, 0.4, 0.4)
    assert rolled.coverage == pytest.approx(0.4)
    assert (rolled.largest_coverage, rolled.last_coverage) == (0.6, 0.4)
    assert rolled.score == pytest.approx(0.6 / 0.95)
    assert not rolled.success
    # The remaining two of four steps count with the end.
    early = episode(0, 0.5, 0.5, 0.96)
    assert early.coverage == pytest.approx((0.5 + 0.5 + 3 * 0.96) / 5)
    assert early.success
    assert early.score == 1
    assert not episode(0, 0.95, 0.95).success


def test_summaries_have_every_measure() -> None:
    found = summarize([episode(0, 0.2, 0.6), episode(1, 0.2, 0.99), episode(2, 0.1, 0.1)])
    assert tuple(found) == MEASURES
    assert found["success"].value == pytest.approx(1 / 3)
    assert found["last_coverage"].value == pytest.approx((0.6 + 0.99 + 0.1) / 3)
    assert all(measured.low <= measured.value <= measured.high for measured in found.values())
    assert found["last_coverage"].low < found["last_coverage"].value < found["last_coverage"].high


def test_policies_are_compared_scene_by_scene() -> None:
    base = [episode(seed, 0.0, 0.1 * seed) for seed in range(1, 8)]
    better = [episode(seed, 0.0, 0.1 * seed + 0.05) for seed in range(1, 8)]
    found = differences(better, base)["last_coverage"]
    # Scenes differ by 0.6, yet the difference is the same in all of them.
    assert found.low == pytest.approx(0.05)
    assert found.high == pytest.approx(0.05)
    with pytest.raises(InputError, match="the same scenes"):
        differences(better, base[::-1])
    with pytest.raises(InputError, match="the same scenes"):
        differences(better, base[:-1])


@pytest.mark.parametrize(
    ("plans", "said"),
    [
        (torch.zeros(1, 8, 2), r"\(1, 9 or more, 2\), got \(1, 8, 2\)"),
        (torch.zeros(1, 16, 3), r"got \(1, 16, 3\)"),
        (torch.zeros(16, 2), r"got \(16, 2\)"),
        (torch.full((1, 16, 2), torch.nan), "plans must be finite, got others at step 0"),
    ],
)
def test_plans_that_cannot_be_carried_out_are_refused(plans: Tensor, said: str) -> None:
    with pytest.raises(InputError, match=said):
        roll_out(lambda *_: plans, [0])


def test_there_is_a_state_for_each_seed() -> None:
    with pytest.raises(InputError, match="a state for each of the 2 seeds, got 1"):
        roll_out(staying, [0, 1], states=[AWAY])
