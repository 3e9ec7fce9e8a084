"""Videos of roll-outs: GIF everywhere, MP4 where imageio has a writer for it.

What is shown is the episode played again, which gives the same states, so that roll-outs need not keep pictures.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from immiscible.environments.pusht import RATE, PushT
from immiscible.environments.rollouts import Episode
from immiscible.errors import InputError, shown
from immiscible.io.files import write_bytes

SUFFIXES = (".gif", ".mp4")
# The width and height of an episode in pixels, the gap between two, and how long the end stays, in frames.
PIXELS, GAP, STAY = 160, 4, RATE
WHITE = 255


def write_video(path: Path, episodes: Sequence[Episode]) -> None:
    """Writes episodes side by side as one video, whole or not at all, with ten actions a second.

    Arguments:
        path: The file, which ends in ``.gif`` or ``.mp4``.
        episodes: The episodes, at least one.

    Raises:
        InputError: If the name has another ending, there is no episode, or MP4 cannot be written here.
        WriteError: If the disk is full, or does not let it be written.
    """
    encode = {".gif": _gif, ".mp4": _mp4}.get(path.suffix)
    if encode is None:
        raise InputError(f"a video must end in {' or '.join(SUFFIXES)}, got {shown(path)}.")
    if not episodes:
        raise InputError("a video needs at least one episode, got none.")
    write_bytes(path, encode(list(frames_of(episodes))))


def best_suffix() -> str:
    """``.mp4`` where it can be written, and ``.gif`` elsewhere."""
    try:
        import imageio_ffmpeg  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        return ".gif"
    return ".mp4"


def frames_of(episodes: Sequence[Episode]) -> Iterator[NDArray[np.uint8]]:
    """The pictures of a video, each with shape (H, W, 3): episodes in rows, those that are over stand still.

    Arguments:
        episodes: The episodes, at least one.
    """
    simulators = [PushT(pixels=PIXELS) for _ in episodes]
    for simulator, episode in zip(simulators, episodes, strict=True):
        simulator.place(episode.start)
    yield _tile([simulator.frame() for simulator in simulators])
    for step in range(max(len(episode.actions) for episode in episodes)):
        for simulator, episode in zip(simulators, episodes, strict=True):
            if step < len(episode.actions):
                simulator.step(episode.actions[step])
        yield _tile([simulator.frame() for simulator in simulators])


def _tile(frames: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures in rows, as square as can be; both sides are even, as MP4 needs them."""
    columns = math.ceil(math.sqrt(len(frames)))
    rows, pitch = math.ceil(len(frames) / columns), PIXELS + GAP
    whole = np.full((rows * pitch, columns * pitch, 3), WHITE, np.uint8)
    for number, frame in enumerate(frames):
        top, left = number // columns * pitch, number % columns * pitch
        whole[top : top + PIXELS, left : left + PIXELS] = frame
    return whole


def _gif(frames: list[NDArray[np.uint8]]) -> bytes:
    from PIL import Image

    first, *others = [Image.fromarray(frame) for frame in frames]
    durations = [1000 // RATE] * len(frames)
    durations[-1] *= STAY
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
    return buffer.getvalue()


def _mp4(frames: list[NDArray[np.uint8]]) -> bytes:
    try:
        import imageio.v3 as imageio
        import imageio_ffmpeg  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise InputError("MP4 needs imageio-ffmpeg: `pip install imageio-ffmpeg`, or give a name in .gif.") from error
    stack = np.stack([*frames, *[frames[-1]] * STAY])
    return imageio.imwrite("<bytes>", stack, extension=".mp4", plugin="FFMPEG", fps=RATE, macro_block_size=2)
