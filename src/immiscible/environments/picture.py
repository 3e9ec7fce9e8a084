"""A picture of a few episodes of Push-T: the goal, the T on its way there, and the path of the disc."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Polygon
from numpy.typing import NDArray

from immiscible.environments.geometry import OUTLINE, to_scene
from immiscible.environments.pusht import GOAL, SIDE
from immiscible.pages.drawing import LIGHT, blank_figure, png_of

COLUMNS, MOST = 4, 8
# Steps between two outlines of the T.
APART = 12
PATH = "viridis"


def picture_of(episodes: Sequence[tuple[str, NDArray[np.float64]]]) -> bytes:
    """The first few episodes as a PNG file.

    Arguments:
        episodes: At least one, each with its title and its states, with shape (T, 5).
    """
    shown = episodes[:MOST]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = blank_figure(LIGHT, 2.6 * columns, 2.8 * rows)
    for place, (title, states) in enumerate(shown):
        _draw(figure.add_subplot(rows, columns, place + 1), title, states)
    return png_of(figure)


def _draw(axes: Axes, title: str, states: NDArray[np.float64]) -> None:
    """One episode: early is dark, late is bright. The T becomes darker as time goes on."""
    axes.add_patch(Polygon(to_scene(np.array(GOAL), OUTLINE), facecolor="#c9e8c9", edgecolor="none"))
    frames = [*range(0, len(states) - 1, APART), len(states) - 1]
    for place, frame in enumerate(frames):
        look = {"edgecolor": LIGHT.text, "facecolor": "none", "alpha": 0.12 + 0.6 * place / len(frames)}
        axes.add_patch(Polygon(to_scene(states[frame, 2:], OUTLINE), linewidth=0.8, **look))
    path = np.stack([states[:-1, :2], states[1:, :2]], 1)
    axes.add_collection(LineCollection(list(path), array=np.arange(len(path)), cmap=PATH, linewidths=1.4))
    axes.plot(*states[0, :2], "o", color=LIGHT.colours[0], markersize=5)
    axes.set(xlim=(0, SIDE), ylim=(SIDE, 0), aspect="equal", xticks=[], yticks=[])
    axes.set_title(f"{title}, {len(states)} steps", fontsize=8, color=LIGHT.text)
