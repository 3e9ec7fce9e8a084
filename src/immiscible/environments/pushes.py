"""What pushes do to the T, each tried once in the simulator.

Nothing in Push-T has momentum: the T moves only while the disc moves it, and the disc goes where it is sent, whatever
is in its way. So what a push does depends on the path of the disc in the T's frame alone, as long as no wall is near,
and a table of pushes holds wherever the T lies.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from immiscible.environments.geometry import CENTRE, OUTLINE, RADIUS, Numbers, inside, normals, to_frame, turned
from immiscible.environments.pusht import SIDE, PushT
from immiscible.environments.ways import FAR

# How far apart points of the outline are that are pushed at, and the disc and the T before it pushes.
SPACING, GAP = 10.0, 4.0
# The directions of pushes, from the inward normal, and how far they lead.
ANGLES = np.radians([-35.0, -17.5, 0.0, 17.5, 35.0])
ADVANCES = np.arange(4.0, 121.0, 4.0)
# How far the disc is sent in a step.
STRIDE = 6.0


@dataclass(frozen=True, eq=False)
class Pushes:
    """A table of pushes, in the T's frame.

    Attributes:
        starts: Where the disc is before it pushes, with shape (N, 2).
        approaches: From where it comes there around the T, with shape (N, 2).
        directions: Where pushes from there lead, unit vectors with shape (N, D, 2).
        changes: The T's pose after the disc has advanced by each of ``ADVANCES``, with shape (N, D, L, 3).
    """

    starts: Numbers
    approaches: Numbers
    directions: Numbers
    changes: Numbers


@functools.cache
def table() -> Pushes:
    """The table, which takes some seconds the first time.

    Raises:
        InputError: If gym-pusht is not installed.
    """
    simulator = PushT()
    contacts, outward = _contacts()
    starts, approaches = contacts + (RADIUS + GAP) * outward, contacts + (FAR + 1.5) * outward
    free = ~inside(approaches, FAR)
    directions = turned(-outward[free][:, None], ANGLES)
    changes = [
        [_changes(simulator, start, direction) for direction in onwards]
        for start, onwards in zip(starts[free], directions, strict=True)
    ]
    return Pushes(starts[free], approaches[free], directions, np.array(changes))


def _contacts() -> tuple[Numbers, Numbers]:
    """Points along the outline, none of them a corner, and the outward normals there, both with shape (N, 2)."""
    points, outward = [], []
    for corner, after, normal in zip(OUTLINE, np.roll(OUTLINE, -1, 0), normals(), strict=True):
        count = round(math.dist(corner, after) / SPACING)
        shares = (np.arange(count) + 0.5)[:, None] / count
        points.append(corner + shares * (after - corner))
        outward.append(np.tile(normal, (count, 1)))
    return np.concatenate(points), np.concatenate(outward)


def _changes(simulator: PushT, start: Numbers, direction: Numbers) -> Numbers:
    """What one push does, with shape (L, 3)."""
    # The T passes the middle of the scene half-way, so that no wall is near.
    pose = np.array([*(SIDE / 2 - ADVANCES[-1] / 2 * direction - CENTRE), 0.0])
    begin = simulator.place([*(start + pose[:2]), *pose])[:2]
    advances, changes = [0.0], [np.zeros(3)]
    while advances[-1] < ADVANCES[-1]:
        state = simulator.step(begin + direction * min(STRIDE * len(advances), ADVANCES[-1] + 2))
        advances.append(float((state[:2] - begin) @ direction))
        angle = (state[4] + math.pi) % (2 * math.pi) - math.pi
        changes.append(np.array([*to_frame(pose, state[2:4]), angle]))
    return np.stack([np.interp(ADVANCES, advances, column) for column in np.stack(changes, 1)], 1)
