from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from immiscible.config.recipes import PolicyConfig
from immiscible.data.demonstrations import Demonstrations
from immiscible.errors import InputError
from immiscible.tasks.policy.windows import Windows, WindowSource
from immiscible.training.sources import ConditionedPoints


def config(**values: Any) -> PolicyConfig:
    return PolicyConfig(out=Path("run"), **values)


def counted(*lengths: int, observed: int = 1, done: int = 1) -> Demonstrations:
    """Frames that are their own numbers: 0, 1, 2 and so on."""
    count = sum(lengths)
    frames = torch.arange(count, dtype=torch.float32)[:, None]
    ends = torch.tensor(lengths).cumsum(0)
    return Demonstrations("counted", frames.expand(-1, observed).clone(), frames.expand(-1, done).clone(), ends)


def windows_of(windows: Windows) -> tuple[torch.Tensor, torch.Tensor]:
    """All windows in the units of the demonstrations: what is observed, and what is done."""
    index = torch.arange(len(windows))
    scaling = windows.scaling
    observed = windows.condition(index) * (scaling.most_observed - scaling.least_observed) / 2
    observed = observed + (scaling.most_observed + scaling.least_observed) / 2
    return observed.round(), scaling.undone(windows.batch(index)[0])[:, :, 0].round()


def test_windows_are_those_of_diffusion_policy() -> None:
    windows = Windows.of(counted(20), config())
    observed, done = windows_of(windows)
    # From one frame before the episode, so that the first plan is made at its first frame, to seven behind it.
    assert len(windows) == 20 - 16 + 7 + 1 + 1
    assert observed[0].tolist() == [0, 0]
    assert done[0].tolist() == [0, *range(15)]
    assert observed[1].tolist() == [0, 1]
    assert observed[-1].tolist() == [11, 12]
    assert done[-1].tolist() == [*range(11, 20), *[19] * 7]
    # Each frame but the last is carried out in the plan of some window, as it is in an episode.
    assert set(done[:, 1:9].flatten().tolist()) == set(range(20))


def test_windows_never_reach_into_another_episode() -> None:
    windows = Windows.of(counted(20, 9, 3), config())
    observed, done = windows_of(windows)
    for rows in (observed, done):
        for first, last in ((0, 19), (20, 28), (29, 31)):
            inside = (rows >= first) & (rows <= last)
            assert bool((inside.all(1) | ~inside.any(1)).all())
    # An episode that is shorter than what is carried out has one window.
    assert int((done[:, 0] >= 29).sum()) == 1
    torch.testing.assert_close(windows.mean(), windows.batch(torch.arange(len(windows)))[0].mean(0))


def test_source_draws_windows_with_what_is_observed() -> None:
    windows = Windows.of(counted(20, observed=3, done=2), config(history=3, horizon=8, executed=4))
    drawn = WindowSource(windows, torch.device("cpu")).draw(torch.tensor([4, 0]), (0, 0, 0))
    assert drawn.x.shape == (2, 8, 2)
    assert drawn.condition is not None
    assert drawn.condition.shape == (2, 9)
    assert drawn.groups is None
    assert isinstance(windows, ConditionedPoints)
    assert windows.shape == (8, 2)


def pusht(frames: int = 30) -> Demonstrations:
    draws = torch.Generator().manual_seed(0)
    states = torch.rand(frames, 5, generator=draws) * torch.tensor([512.0, 512, 512, 512, 2 * math.pi])
    return Demonstrations("pusht", states, torch.rand(frames, 2, generator=draws) * 512, torch.tensor([10, frames]))


def test_mirror_images_are_as_many_windows_more() -> None:
    plain, both = (Windows.of(pusht(), config(mirror=mirror, angles="4")) for mirror in (False, True))
    assert len(both) == 2 * len(plain)
    done = both.scaling.undone(both.batch(torch.arange(len(both)))[0])
    ours, theirs = done.chunk(2)
    torch.testing.assert_close(theirs, 512 - ours.flip(-1), rtol=0, atol=1e-2)
    # The scene is its own mirror image: what is scaled is scaled alike.
    torch.testing.assert_close(both.scaling.least_done[0], 512 - both.scaling.most_done[1])


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"mirror": True}, "--mirror needs demonstrations of Push-T, .* got counted with 1 and 1"),
        ({"angles": "0,3"}, "--angles must be columns from 0 to 0 for counted, got 0,3"),
    ],
)
def test_what_demonstrations_do_not_have_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Windows.of(counted(20), config(**values))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"executed": 16}, "--horizon must be at least --history - 1 . --executed = 17, got 16"),
        ({"network": "unet", "horizon": 18}, "--horizon must be a multiple of 4 for the U-Net, got 18"),
        ({"inference_steps": 101}, "--inference-steps must be at most 100, got 101"),
        ({"angles": "x"}, "--angles must be columns from 0 separated by commas"),
        ({"cost_space": "any"}, "--cost-space must be raw, "),
    ],
)
def test_settings_that_do_not_fit_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        config(**values)
