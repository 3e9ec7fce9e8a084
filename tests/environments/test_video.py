"""Videos show the episodes, and are written whole or not at all."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from immiscible.environments.pusht import PushT
from immiscible.environments.rollouts import Episode, roll_out
from immiscible.environments.video import GAP, PIXELS, STAY, best_suffix, frames_of, write_video
from immiscible.errors import InputError

COLUMN = slice(PIXELS + GAP, 2 * PIXELS + GAP)


def pushing(observations: Tensor, draws: Sequence[int]) -> Tensor:
    return observations[:, -1:, 2:4].expand(-1, 16, -1)


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    long = roll_out(pushing, [1, 2], max_steps=6)
    return [*long, *roll_out(pushing, [3], max_steps=2)]


def test_frames_are_those_of_the_simulator_side_by_side(episodes: list[Episode]) -> None:
    frames = list(frames_of(episodes))
    assert len(frames) == 7
    simulator = PushT(pixels=PIXELS)
    simulator.place(episodes[1].start)
    np.testing.assert_array_equal(frames[0][:PIXELS, COLUMN], simulator.frame())
    for action, frame in zip(episodes[1].actions, frames[1:], strict=True):
        simulator.step(action)
        np.testing.assert_array_equal(frame[:PIXELS, COLUMN], simulator.frame())
    # The third, in the second row, is over after two steps.
    below = slice(PIXELS + GAP, None)
    assert (frames[1][below] != frames[0][below]).any()
    np.testing.assert_array_equal(frames[3][below], frames[2][below])


def test_a_gif_has_every_frame_and_stays_at_the_end(episodes: list[Episode], tmp_path: Path) -> None:
    write_video(tmp_path / "few.gif", episodes)
    with Image.open(tmp_path / "few.gif") as image:
        assert image.size == (2 * (PIXELS + GAP), 2 * (PIXELS + GAP))
        lasted = []
        for number in range(image.n_frames):
            image.seek(number)
            lasted.append(image.info["duration"])
    assert sum(lasted) == 100 * (6 + STAY)
    assert lasted[-1] >= 100 * STAY


def test_the_same_episodes_give_the_same_file(episodes: list[Episode], tmp_path: Path) -> None:
    for name in ("one.gif", "other.gif"):
        write_video(tmp_path / name, episodes[:1])
    assert (tmp_path / "one.gif").read_bytes() == (tmp_path / "other.gif").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one.gif", "other.gif"}


@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="MP4 needs imageio-ffmpeg")
def test_an_mp4_has_every_frame(episodes: list[Episode], tmp_path: Path) -> None:
    import cv2

    assert best_suffix() == ".mp4"
    write_video(tmp_path / "few.mp4", episodes)
    video = cv2.VideoCapture(str(tmp_path / "few.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 7 + STAY
    assert video.get(cv2.CAP_PROP_FPS) == 10
    read, frame = video.read()
    video.release()
    assert read
    assert np.abs(frame[..., ::-1].astype(float) - next(frames_of(episodes))).mean() < 10


def test_where_no_mp4_can_be_written_gif_is_named(
    episodes: list[Episode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert best_suffix() == ".gif"
    with pytest.raises(InputError, match=r"imageio-ffmpeg.*\.gif"):
        write_video(tmp_path / "few.mp4", episodes)
    assert not list(tmp_path.iterdir())


def test_other_endings_and_no_episodes_are_refused(episodes: list[Episode], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end in \.gif or \.mp4, got .*\\x1b\[2J\.png"):
        write_video(tmp_path / "\x1b[2J.png", episodes)
    with pytest.raises(InputError, match="at least one episode"):
        write_video(tmp_path / "none.gif", [])
