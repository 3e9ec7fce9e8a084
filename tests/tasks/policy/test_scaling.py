from __future__ import annotations

import torch

from immiscible.tasks.policy.scaling import Scaling, features


def numbers(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 400 + 50


def test_numbers_of_demonstrations_lie_in_one_range_and_come_back() -> None:
    observations, actions = numbers(200, 5), numbers(200, 2)
    scaling = Scaling.fit(observations, actions, [])
    for scaled in (scaling.observed(observations), scaling.done(actions)):
        torch.testing.assert_close(scaled.amin(0), -torch.ones(scaled.shape[1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(scaled.amax(0), torch.ones(scaled.shape[1]), rtol=0, atol=1e-5)
    torch.testing.assert_close(scaling.undone(scaling.done(actions)), actions, rtol=1e-5, atol=1e-3)


def test_what_does_not_vary_is_not_divided_by_nothing() -> None:
    observations, actions = numbers(50, 3), numbers(50, 2)
    observations[:, 1], actions[:, 0] = 7.0, -3.0
    scaling = Scaling.fit(observations, actions, [])
    torch.testing.assert_close(scaling.observed(observations)[:, 1], torch.zeros(50))
    torch.testing.assert_close(scaling.observed(observations + 2)[:, 1], torch.full((50,), 2.0))
    done = scaling.done(actions)
    torch.testing.assert_close(done[:, 0], torch.zeros(50))
    torch.testing.assert_close(scaling.undone(done), actions, rtol=1e-5, atol=1e-3)


def test_angles_have_no_jump() -> None:
    observations = torch.tensor([[1.0, 0.01, 5.0], [1.0, 2 * torch.pi - 0.01, 5.0]])
    found = features(observations, torch.tensor([1]))
    assert found.shape == (2, 4)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0.03)
    torch.testing.assert_close(found[:, 1].square() + found[:, 3].square(), torch.ones(2))
    torch.testing.assert_close(found[:, [0, 2]], observations[:, [0, 2]])
