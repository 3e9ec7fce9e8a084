"""The shortest ways of the disc around the T, all in the T's frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from immiscible.environments.geometry import RADIUS, Numbers, crossed, inflated, inside

# How far the disc's middle keeps from the T: on a straight way, and around corners, which the disc cuts.
CLOSE, FAR = RADIUS + 2, RADIUS + 12


class Ways:
    """Ways to some places: straight where the T is not in between, or else by the corners of a wider outline.

    Arguments:
        places: Where they lead, with shape (N, 2), outside of the T.
        approaches: From where each place is come to around the T, with shape (N, 2), outside of the wider outline.
    """

    def __init__(self, places: Numbers, approaches: Numbers) -> None:
        self.places, self.approaches = places, approaches
        self.corners = inflated(FAR + 1)
        self.lengths, self.next = _shortest(_seen(self.corners[:, None], self.corners, FAR))
        self.last = _seen(self.corners[:, None], approaches, FAR)
        self.final = _apart(places, approaches)

    def begin(self, start: Numbers) -> Reach:
        """The ways from a start, with shape (2,)."""
        outside = self._outside(start)
        first = _seen(outside, self.corners, FAR)
        by_corners = (first[:, None, None] + self.lengths[:, :, None] + self.last).reshape(-1, len(self.places))
        direct = _seen(outside, self.approaches, FAR)
        lengths = np.stack([direct, by_corners.min(0)]) + _apart(start, outside) + self.final
        lengths = np.concatenate([_seen(start, self.places, CLOSE)[None], lengths])
        return Reach(self, start, outside, lengths.min(0), lengths.argmin(0), by_corners.argmin(0))

    def _outside(self, start: Numbers) -> Numbers:
        """The nearest point outside of the wider outline."""
        if not inside(start, FAR):
            return start
        edges = np.roll(self.corners, -1, 0) - self.corners
        shares = ((start - self.corners) * edges).sum(-1) / (edges**2).sum(-1)
        nearest = self.corners + np.clip(shares, 0, 1)[:, None] * edges
        return nearest[_apart(nearest, start).argmin()]


@dataclass(frozen=True, eq=False)
class Reach:
    """The ways from one start.

    Attributes:
        ways: Where they lead.
        start: Where they begin.
        outside: Where those begin that go around the T.
        lengths: How long they are, with shape (N,); infinite where there is none.
        kinds: Whether each is straight (0), goes straight to the approach (1), or by corners (2).
        corners: The first and the last corner of those by corners, as one number.
    """

    ways: Ways
    start: Numbers
    outside: Numbers
    lengths: Numbers
    kinds: NDArray[np.int64]
    corners: NDArray[np.int64]

    def way(self, place: int) -> Numbers:
        """The way to a place, as the points between which it is straight."""
        ways, points = self.ways, [self.start]
        if self.kinds[place] > 0:
            points.append(self.outside)
        if self.kinds[place] == 2:
            corner, last = divmod(int(self.corners[place]), len(ways.corners))
            points.append(ways.corners[corner])
            while corner != last:
                corner = int(ways.next[corner, last])
                points.append(ways.corners[corner])
        if self.kinds[place] > 0:
            points.append(ways.approaches[place])
        return np.stack([*points, ways.places[place]])


def _apart(points: Numbers, others: Numbers) -> Numbers:
    return np.linalg.norm(points - others, axis=-1)


def _seen(points: Numbers, others: Numbers, by: float) -> Numbers:
    """How far points are from others, infinite where the outline, moved outwards, lies in between."""
    return np.where(crossed(points, others, by), np.inf, _apart(points, others))


def _shortest(lengths: Numbers) -> tuple[Numbers, NDArray[np.int64]]:
    """The lengths of the shortest ways between all corners, and the next corner on each (Floyd and Warshall)."""
    count = len(lengths)
    lengths = np.where(np.eye(count, dtype=bool), 0.0, lengths)
    following = np.tile(np.arange(count), (count, 1))
    for middle in range(count):
        through = lengths[:, middle, None] + lengths[middle]
        following = np.where(through < lengths, following[:, middle, None], following)
        lengths = np.minimum(through, lengths)
    return lengths, following
