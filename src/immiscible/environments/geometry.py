r"""The T of Push-T as a shape: its outline, and how far it lies from its goal.

Points are those of the T's own frame, unless said: its origin is the middle of the bar's outer edge, and the stem
points along :math:`y`. A pose is the place of that origin in the scene, and the angle: :math:`(x, y, a)`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from immiscible.environments.pusht import GOAL

Numbers = NDArray[np.float64]
# The radius of the disc.
RADIUS = 15.0
# The rectangles of bar and stem: x and y of the first corner, and of the last.
BAR, STEM = (-60.0, 0.0, 60.0, 30.0), (-15.0, 30.0, 15.0, 120.0)
# The corners, all of them right angles.
OUTLINE = np.array([(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], np.float64)


def _moments() -> tuple[Numbers, float]:
    """The middle of the area, and the mean squared distance of its points from there."""
    boxes = np.array([BAR, STEM])
    sides = boxes[:, 2:] - boxes[:, :2]
    areas, middles = sides.prod(1), (boxes[:, 2:] + boxes[:, :2]) / 2
    centre = areas @ middles / areas.sum()
    squares = (sides**2).sum(1) / 12 + ((middles - centre) ** 2).sum(1)
    return centre, float(areas @ squares / areas.sum())


CENTRE, SPREAD = _moments()


def turned(points: Numbers, angles: Numbers | float) -> Numbers:
    """Points turned about the origin, with shape (..., 2)."""
    cos, sin, x, y = np.cos(angles), np.sin(angles), points[..., 0], points[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], -1)


def to_scene(poses: Numbers, points: Numbers) -> Numbers:
    """Where points of the T's frame are in the scene, with shape (..., 2)."""
    return turned(points, poses[..., 2]) + poses[..., :2]


def to_frame(poses: Numbers, points: Numbers) -> Numbers:
    """Where points of the scene are in the T's frame, with shape (..., 2)."""
    return turned(points - poses[..., :2], -poses[..., 2])


def moved(poses: Numbers, changes: Numbers) -> Numbers:
    """Poses after changes, which are poses in the T's frame, with shape (..., 3)."""
    return np.concatenate([to_scene(poses, changes[..., :2]), poses[..., 2:] + changes[..., 2:]], -1)


def distance(poses: Numbers) -> Numbers:
    r"""How far the T is from its goal: the root of the mean squared distance between its points and theirs.

    .. math:: d^2 = |c - c_\text{goal}|^2 + 2 s^2 (1 - \cos(a - a_\text{goal}))

    Here :math:`c` is the middle of the area, and :math:`s^2` the mean squared distance of its points from there.
    """
    goal = np.array(GOAL)
    apart = to_scene(poses, CENTRE) - to_scene(goal, CENTRE)
    return np.sqrt((apart**2).sum(-1) + 2 * SPREAD * (1 - np.cos(poses[..., 2] - goal[2])))


def normals() -> Numbers:
    """The outward normal of each edge of the outline, from each corner to the next, with shape (8, 2)."""
    edges = np.roll(OUTLINE, -1, 0) - OUTLINE
    return np.stack([edges[:, 1], -edges[:, 0]], 1) / np.linalg.norm(edges, axis=1, keepdims=True)


def inflated(by: float) -> Numbers:
    """The corners of the outline with all its edges moved outwards, with shape (8, 2)."""
    outward = normals()
    return OUTLINE + by * (outward + np.roll(outward, 1, 0))


def inside(points: Numbers, by: float) -> NDArray[np.bool_]:
    """Whether points lie in the outline with all its edges moved outwards."""
    x, y = points[..., 0], points[..., 1]
    boxes = [(x > a - by) & (x < c + by) & (y > b - by) & (y < d + by) for a, b, c, d in (BAR, STEM)]
    return boxes[0] | boxes[1]


def crossed(ends: Numbers, others: Numbers, by: float) -> NDArray[np.bool_]:
    """Whether straight lines lead through the outline with all its edges moved outwards.

    Arguments:
        ends: Where the lines begin, with shape (..., 2).
        others: Where they end, with shape (..., 2).
        by: How far the edges are moved.
    """
    corners = inflated(by)
    after = np.roll(corners, -1, 0)
    a, b = np.broadcast_arrays(ends, others)
    a, b = a[..., None, :], b[..., None, :]
    apart = (_side(corners, after, a) * _side(corners, after, b) < 0) & (_side(a, b, corners) * _side(a, b, after) < 0)
    return apart.any(-1) | inside((a + b)[..., 0, :] / 2, by)


def _side(p: Numbers, q: Numbers, x: Numbers) -> Numbers:
    """On which side of the lines from ``p`` to ``q`` points are, by the sign."""
    along, to = q - p, x - p
    return along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]
