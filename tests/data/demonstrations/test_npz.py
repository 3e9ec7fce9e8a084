from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from immiscible.data.demonstrations import read_demonstrations
from immiscible.errors import InputError

OBSERVATIONS = np.arange(35, dtype=np.float64).reshape(7, 5)
ACTIONS = np.arange(14).reshape(7, 2)
ENDS = np.array([3, 7])


def saved(path: Path, **arrays: Any) -> str:
    good = {"observations": OBSERVATIONS, "actions": ACTIONS, "episode_ends": ENDS}
    np.savez(path, **{key: value for key, value in {**good, **arrays}.items() if value is not None})
    return str(path)


@pytest.mark.parametrize(
    "episodes", [{}, {"episode_ends": None, "episode_index": np.array([5, 5, 5, 2, 2, 2, 2])}], ids=["ends", "index"]
)
def test_episodes_are_read(tmp_path: Path, episodes: dict[str, Any]) -> None:
    data = read_demonstrations(saved(tmp_path / "own.npz", **episodes, rate=np.array(20), success=np.ones(2)))
    torch.testing.assert_close(data.observations, torch.arange(35.0).view(7, 5))
    torch.testing.assert_close(data.actions, torch.arange(14.0).view(7, 2))
    assert (data.name, data.rate, data.ends.tolist(), len(data)) == ("own.npz", 20.0, [3, 7], 7)
    assert data.passed_over == {"array success, which is not read": 1}


def test_folder_is_read_by_the_file_in_it(tmp_path: Path) -> None:
    saved(tmp_path / "demonstrations.npz")
    data = read_demonstrations(str(tmp_path))
    assert (data.name, data.rate) == (tmp_path.name, 10.0)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (
            {"actions": None},
            r"must hold observations, actions, and episode_ends or episode_index, got episode_ends, obs",
        ),
        ({"episode_ends": None}, "must hold observations"),
        ({"observations": OBSERVATIONS.astype(str)}, "observations must be rows of numbers, got <U"),
        ({"observations": OBSERVATIONS[:6]}, "an action for each of the 6 observations, got 7"),
        ({"observations": np.full((7, 5), np.nan)}, "observations must be finite, got others in 7 frames"),
        ({"actions": ACTIONS * 1e300}, "actions must be finite, got others in 7 frames"),
        ({"observations": OBSERVATIONS[:0], "actions": ACTIONS[:0]}, r"at least one of each, got \(0, 5\)"),
        ({"episode_ends": np.array([3.0, 7.0])}, "episode_ends must be integers"),
        ({"episode_ends": np.array([[3, 7]])}, "episode_ends must be integers"),
        ({"episode_ends": np.array([3, 3, 7])}, "must rise from episode to episode, got 3 for episode 1 after 3"),
        ({"episode_ends": np.array([0, 7])}, "must rise from episode to episode, got 0 for episode 0"),
        ({"episode_ends": np.array([3, 8])}, "must end with the last of the 7 frames, got 8"),
        ({"episode_ends": np.array([], dtype=int)}, "ends must be int64"),
        ({"episode_ends": None, "episode_index": np.array([0, 0, 1, 1, 0, 0, 0])}, "go on after others"),
        ({"episode_ends": None, "episode_index": np.array([0, 0, 1])}, r"must have shape \(7,\), one per frame"),
        ({"rate": np.array(0.0)}, "the rate must be a positive number"),
        ({"rate": np.array([1.0, 2.0])}, "rate must be one number"),
        ({"observations": np.array([object()] * 7)}, "without pickled objects"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_demonstrations(saved(tmp_path / "own.npz", **arrays))
    assert "\n" not in str(caught.value)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    content = Path(saved(tmp_path / "own.npz")).read_bytes()
    (tmp_path / "own.npz").write_bytes(content[:-40])
    with pytest.raises(InputError, match=r"must be a whole .npz file"):
        read_demonstrations(str(tmp_path / "own.npz"))


def test_header_that_promises_more_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(saved(tmp_path / "good.npz")) as good, zipfile.ZipFile(tmp_path / "own.npz", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, good.read(name).replace(b"(7, 5), }", b"(79999,5)}"))
    with pytest.raises(InputError, match=r"bytes of 79999 x 5 .* its header tells of, got"):
        read_demonstrations(str(tmp_path / "own.npz"))


@pytest.mark.parametrize(("spec", "said"), [("", "no such path"), ("absent.npz", "no such path")])
def test_what_is_not_there_is_refused(spec: str, said: str) -> None:
    with pytest.raises(InputError, match=f"demonstrations must be .*{said}"):
        read_demonstrations(spec)
