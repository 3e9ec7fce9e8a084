from __future__ import annotations

import numpy as np
import pytest

from immiscible.environments import planner
from immiscible.environments.pusht import SUCCESS, PushT, scene
from immiscible.seeds import derive


@pytest.fixture(scope="module")
def attempts() -> list[planner.Attempt]:
    return [planner.attempt(0, number) for number in range(4)]


def test_attempts_succeed_and_end_as_soon_as_they_do(attempts: list[planner.Attempt]) -> None:
    for tried in attempts:
        assert tried.solved
        assert max(tried.coverage[:-1]) <= SUCCESS
        assert len(tried.observations) == len(tried.actions) == len(tried.coverage) <= planner.MOST_STEPS


def test_an_attempt_depends_on_seed_and_number_only(attempts: list[planner.Attempt]) -> None:
    again = planner.attempt(0, 2)
    np.testing.assert_array_equal(again.actions, attempts[2].actions)
    np.testing.assert_array_equal(again.observations, attempts[2].observations)
    np.testing.assert_array_equal(again.scene, scene(derive(0, "push-t scene", 2)))
    assert again.coverage == attempts[2].coverage
    assert not np.array_equal(planner.attempt(1, 2).scene, again.scene)


def test_a_draw_decides_between_the_best_pushes() -> None:
    import torch

    state = scene(3)
    plans = [planner.choose(state, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert len({tuple(plan.push.ravel()) for plan in plans}) > 1


def test_an_attempt_played_again_covers_exactly_as_much(attempts: list[planner.Attempt]) -> None:
    for tried in attempts[:2]:
        simulator = PushT()
        simulator.place(tried.scene)
        for observed, action, coverage in zip(tried.observations, tried.actions, tried.coverage, strict=True):
            np.testing.assert_array_equal(simulator.state.astype(np.float32), observed)
            simulator.step(action)
            assert simulator.coverage == coverage


def test_the_disc_moves_without_jumps(attempts: list[planner.Attempt]) -> None:
    for tried in attempts:
        ahead = np.linalg.norm(np.array(tried.actions) - np.array(tried.observations)[:, :2], axis=1)
        assert ahead.max() < planner.AHEAD_ON_WAY + 6


def test_a_t_in_a_corner_is_got_out_of_it() -> None:
    driver = planner._Driver(np.array([60.0, 60.0, 400.0, 400.0, 7 * np.pi / 4]))
    import torch

    draws = torch.Generator().manual_seed(0)
    while not driver.attempt.over:
        plan = planner.choose(driver.state, draws)
        driver.follow(plan.way, 36, 4)
        driver.follow(plan.push, 20, 2)
    assert driver.attempt.solved
