"""The fork has the law that it says."""

from __future__ import annotations

import math

import pytest
import torch

from immiscible.data.demonstrations import read_demonstrations
from immiscible.data.demonstrations.fork import NOISE, STEPS, centres, demonstrate, observe, share
from immiscible.errors import InputError


def test_it_is_read_by_its_name_and_seeds_differ() -> None:
    data = read_demonstrations("fork")
    assert data.fingerprint() == read_demonstrations("fork:0").fingerprint() == demonstrate(0).fingerprint()
    assert data.fingerprint() != read_demonstrations("fork:1").fingerprint()
    assert (data.lengths == STEPS).all()
    assert data.observations.shape == (len(data), 3)
    assert data.actions.shape == (len(data), 2)


def test_paths_have_the_shares_and_the_noise_of_the_law() -> None:
    data = demonstrate(3, episodes=20_000)
    observations, paths = data.observations[data.starts], data.actions.view(-1, STEPS, 2)
    off = paths.unsqueeze(1) - centres(observations)
    side = off.square().sum((2, 3)).argmin(1)
    off = off[torch.arange(len(off)), side]
    assert float(off.std()) == pytest.approx(NOISE, rel=0.01)
    assert float(off.mean(0).abs().max()) < 5 * NOISE / math.sqrt(len(off))
    probability = share(observations)
    for low in torch.arange(0.1, 0.9, 0.2):
        there = (probability >= low) & (probability < low + 0.2)
        spread = float((probability[there] * (1 - probability[there])).mean().sqrt()) / math.sqrt(int(there.sum()))
        assert abs(float((side[there] == 0).float().mean() - probability[there].mean())) < 4 * spread


def test_shares_are_between_a_tenth_and_nine_tenths() -> None:
    observations = torch.tensor([[0.7, sign, 0.0] for sign in (-1, -0.5, 0, 0.5)])
    torch.testing.assert_close(share(observations), torch.tensor([0.5, 0.1, 0.5, 0.9]))


def test_the_observation_tells_the_place_the_sign_and_the_time() -> None:
    data = demonstrate(1, episodes=5)
    frames, _ = data.episode(2)
    torch.testing.assert_close(frames[:, 2], torch.linspace(0, 1, STEPS))
    assert (frames[:, :2] == frames[0, :2]).all()
    torch.testing.assert_close(frames[0], observe(5, 1)[2])
    assert (data.observations[:, :2].abs() <= 1).all()


def test_both_ways_begin_and_end_behind_one_another_and_part_at_the_obstacle() -> None:
    left, right = centres(torch.tensor([[0.3, 0.0, 0.0]]))[0]
    torch.testing.assert_close(left[[0, -1]], right[[0, -1]])
    assert left[:, 1].max() > 0.3 + 0.49
    assert right[:, 1].min() < 0.3 - 0.49
    torch.testing.assert_close(left[:, 0], torch.linspace(-1, 1, STEPS))


@pytest.mark.parametrize("spec", ["fork:", "fork:-1", "fork:x", "fork:1.5", "fork:²", f"fork:{2**63}"])
def test_another_seed_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match=r"must be an integer from 0 to 2\^63 - 1"):
        read_demonstrations(spec)
