"""Directories of images are filled bit by bit: a killed command goes on, and leaves what an undisturbed one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from immiscible.cli.images import alone, check_images, fill
from immiscible.errors import InputError

COUNT, SIZE = 10, 4


class Painter:
    """Draws images that tell their numbers, and fails when it was asked a few times."""

    def __init__(self, times: int = 100) -> None:
        self.times = times
        self.drawn: list[tuple[int, int]] = []

    def __call__(self, part: slice) -> torch.Tensor:
        if len(self.drawn) == self.times:
            raise KeyboardInterrupt
        self.drawn.append((part.start, part.stop))
        return torch.arange(part.start, part.stop).view(-1, 1, 1, 1).expand(-1, 1, 2, 2) / COUNT


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    fill(tmp_path / "whole", COUNT, SIZE, Painter(), {})
    return files(tmp_path / "whole")


def test_finished_directory_holds_the_images_only(whole: dict[str, bytes]) -> None:
    assert sorted(whole) == [f"{index:06d}.png" for index in range(COUNT)]


def test_killed_command_goes_on_and_draws_what_is_missing(whole: dict[str, bytes], tmp_path: Path) -> None:
    out, painter = tmp_path / "out", Painter()
    with pytest.raises(KeyboardInterrupt):
        fill(out, COUNT, SIZE, Painter(2), {"seed": 0})
    (out / "000005.png").unlink()
    check_images(out, [])
    assert fill(out, COUNT, SIZE, painter, {"seed": 0}) == 6
    # What is drawn together stays together.
    assert painter.drawn == [(4, 8), (8, 10)]
    assert files(out) == whole


def test_other_request_does_not_go_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, COUNT, SIZE, Painter(1), {"seed": 0})
    with pytest.raises(InputError, match="differs in seed: give another --out, or add --overwrite"):
        fill(tmp_path, COUNT, SIZE, Painter(), {"seed": 1})


def test_overwriting_leaves_no_older_image(whole: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, COUNT + 7, SIZE, Painter(), {})
    with pytest.raises(InputError, match="must not exist yet"):
        check_images(out, [])
    check_images(out, [], overwrite=True)
    fill(out, COUNT, SIZE, Painter(), {}, overwrite=True)
    assert files(out) == whole


def test_image_that_came_while_it_was_waited_for_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("precious")
    with pytest.raises(InputError, match="must not exist yet"), alone(tmp_path / "x.png"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
