"""The simulator of Push-T: what is placed is there, what is repeated is the same, and what is mirrored is mirrored."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch

from immiscible.environments.pusht import GOAL, RATE, SIDE, SUCCESS, PushT, mirror_actions, mirror_states, scene
from immiscible.errors import InputError


def pushes(state: np.ndarray, seed: int, steps: int = 40) -> np.ndarray:
    """Actions that go to and fro across the T, without jumps, with shape (steps, 2)."""
    draws = np.random.default_rng(seed)
    place, actions = state[:2].copy(), []
    for step in range(steps):
        if step % 13 == 0:
            aim = state[2:4] + draws.normal(0, 60, 2)
        place = place + np.clip(aim - place, -25, 25)
        actions.append(place)
    return np.stack(actions)


def play(simulator: PushT, state: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The states after each action, with shape (steps, 5), and their coverage."""
    simulator.place(state)
    seen = [(simulator.step(action), simulator.coverage) for action in actions]
    return np.stack([state for state, _ in seen]), np.array([coverage for _, coverage in seen])


@pytest.mark.parametrize("state", [(100, 120, 300, 310, 1.3), (60.5, 400.25, 200, 180, 6.0), (256, 80, 256, 256, 0)])
def test_bodies_are_where_they_are_placed(state: tuple[float, ...]) -> None:
    simulator = PushT()
    np.testing.assert_allclose(simulator.place(state), state, rtol=0, atol=1e-12)
    np.testing.assert_allclose(simulator.state, state, rtol=0, atol=1e-12)
    # They are at rest, and stay.
    np.testing.assert_allclose(simulator.step(state[:2]), state, rtol=0, atol=1e-12)


def test_gym_pusht_itself_places_the_block_elsewhere() -> None:
    from gym_pusht.envs.pusht import PushTEnv

    state = np.array([100, 120, 300, 310, 1.3])
    placed, _ = PushTEnv().reset(options={"reset_to_state": state})
    assert np.abs(placed - state).max() > 10


def test_the_goal_is_covered_by_a_block_that_lies_there() -> None:
    simulator = PushT()
    simulator.place([80, 80, *GOAL])
    assert simulator.coverage == pytest.approx(1)
    simulator.place([80, 80, GOAL[0] + 5, *GOAL[1:]])
    assert 0.8 < simulator.coverage < SUCCESS


def test_goal_rate_and_success_are_those_of_gym_pusht() -> None:
    from gym_pusht.envs.pusht import PushTEnv

    env = PushTEnv()
    env.reset(seed=0)
    assert tuple(env.goal_pose) == GOAL
    assert env.success_threshold == SUCCESS
    assert env.metadata["render_fps"] == RATE
    assert env.action_space.high.tolist() == [SIDE, SIDE]


def test_coverage_is_that_of_gym_pusht() -> None:
    from gym_pusht.envs.pusht import PushTEnv

    env, simulator = PushTEnv(), PushT()
    env.reset(options={"reset_to_state": np.array([150, 150, 240, 200, 0.7])})
    info = {}
    for action in pushes(env.get_obs(), 3):
        *_, info = env.step(action)
    # Apart from contacts, which a placed body has none of, coverage depends on where the block lies.
    simulator.place([40, 40, *info["block_pose"]])
    assert simulator.coverage == pytest.approx(info["coverage"], abs=1e-9)
    assert info["coverage"] > 0.01


def test_an_episode_repeats_whatever_came_before() -> None:
    used, fresh = PushT(), PushT()
    play(used, scene(7), pushes(scene(7), 7))
    state = scene(4)
    for one, other in zip(play(used, state, pushes(state, 4)), play(fresh, state, pushes(state, 4)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_scenes_are_those_of_gym_pusht() -> None:
    from gym_pusht.envs.pusht import PushTEnv

    env = PushTEnv()
    for seed in range(20):
        state, _ = env.reset(seed=seed)
        np.testing.assert_allclose(scene(seed), state, rtol=0, atol=1e-9)
    assert len({tuple(scene(seed)) for seed in range(50)}) == 50


# Across the scene, in each the block is pushed, and touches no wall.
@pytest.mark.parametrize("seed", range(6))
def test_a_mirrored_scene_under_mirrored_actions_is_the_mirror_image(seed: int) -> None:
    draws = np.random.default_rng(seed)
    state = np.array([*draws.uniform(80, 430, 2), *draws.uniform(220, 290, 2), draws.uniform(0, 2 * math.pi)])
    actions, simulator = pushes(state, seed), PushT()
    states, coverage = play(simulator, state, actions)
    assert np.abs(states[-1, 2:4] - state[2:4]).max() > 1
    mirrored = (
        mirror(torch.from_numpy(each)).numpy() for mirror, each in [(mirror_states, state), (mirror_actions, actions)]
    )
    others, others_coverage = play(simulator, *mirrored)
    images = mirror_states(torch.from_numpy(states)).numpy()
    np.testing.assert_allclose(np.cos(others[:, 4] - images[:, 4]), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(others[:, :4], images[:, :4], rtol=0, atol=1e-9)
    np.testing.assert_allclose(others_coverage, coverage, rtol=0, atol=1e-9)


@pytest.mark.parametrize("vertical", [True, False])
def test_about_another_axis_scenes_do_not_mirror(vertical: bool) -> None:
    """About x = 256 or y = 256 the goal is no image of itself: coverage at its place then differs."""
    simulator = PushT()
    simulator.place([80, 80, *GOAL])
    covered = simulator.coverage
    simulator.place([80, 80, 256, 256, -GOAL[2] if vertical else math.pi - GOAL[2]])
    assert simulator.coverage < covered - 0.3


def test_mirrored_twice_is_as_before() -> None:
    states = torch.rand(3, 2, 5, dtype=torch.float64) * torch.tensor([SIDE] * 4 + [2 * math.pi])
    torch.testing.assert_close(mirror_states(mirror_states(states)), states)
    assert ((mirror_states(states)[..., 4] >= 0) & (mirror_states(states)[..., 4] < 2 * math.pi)).all()
    actions = torch.rand(3, 16, 2) * SIDE
    torch.testing.assert_close(mirror_actions(mirror_actions(actions)), actions)
    goal = torch.tensor([100.0, SIDE - 100.0, *GOAL])
    torch.testing.assert_close(mirror_states(goal), goal)


def test_frames_are_pictures() -> None:
    simulator = PushT(pixels=64)
    frame = simulator.frame()
    assert frame.shape == (64, 64, 3)
    assert frame.dtype == np.uint8
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 3
    simulator.begin(1)
    assert (simulator.frame() != frame).any()


@pytest.mark.parametrize("state", [[1, 2, 3], [1, 2, 3, 4, math.nan], [[1, 2, 3, 4, 5]]])
def test_a_state_has_five_finite_numbers(state: list[float]) -> None:
    with pytest.raises(InputError, match="five finite numbers"):
        PushT().place(state)


def test_seeds_are_not_negative() -> None:
    with pytest.raises(InputError, match="must not be negative, got -1"):
        scene(-1)


def test_without_gym_pusht_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gym_pusht.envs.pusht", None)
    with pytest.raises(InputError, match=r"immiscible-diffusion\[policy\]"):
        PushT()
