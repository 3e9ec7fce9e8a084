from __future__ import annotations

import numpy as np
import shapely

from immiscible.environments.geometry import OUTLINE, RADIUS, inflated, inside
from immiscible.environments.ways import CLOSE, FAR, Ways

# Above the bar, below the stem, beside it, and at an end of the bar.
PLACES = np.array([[0.0, -19.0], [0.0, 139.0], [34.0, 90.0], [-79.0, 15.0]])
APPROACHES = np.array([[0.0, -29.0], [0.0, 149.0], [44.0, 90.0], [-89.0, 15.0]])
STARTS = np.random.default_rng(0).uniform((-200, -150), (200, 260), (60, 2))
STARTS = STARTS[~inside(STARTS, CLOSE)]


def test_ways_lead_around_the_t_and_are_as_long_as_said() -> None:
    shape = shapely.Polygon(OUTLINE)
    for start in STARTS:
        reach = Ways(PLACES, APPROACHES).begin(start)
        for place, target in enumerate(PLACES):
            way = reach.way(place)
            np.testing.assert_array_equal([way[0], way[-1]], [start, target])
            line = shapely.LineString(way)
            np.testing.assert_allclose(line.length, reach.lengths[place])
            assert line.distance(shape) > RADIUS + 1.9


def test_ways_are_straight_where_nothing_is_in_between_and_else_the_shortest() -> None:
    reach = Ways(PLACES, APPROACHES).begin(np.array([0.0, -200.0]))
    assert len(reach.way(0)) == 2
    # Around the bar and the stem, by three corners, and then to the approach.
    corners = inflated(FAR + 1)[[1, 2, 4]]
    by_hand = shapely.LineString(np.stack([[0.0, -200.0], *corners, APPROACHES[1], PLACES[1]]))
    np.testing.assert_allclose(reach.lengths[1], by_hand.length)
    straight = np.linalg.norm(PLACES - [0.0, -200.0], axis=1)
    assert (reach.lengths >= straight - 1e-9).all()
    assert reach.lengths[1] > straight[1] + 20


def test_a_disc_at_the_t_first_moves_away_from_it() -> None:
    start = np.array([0.0, -16.0])
    way = Ways(PLACES, APPROACHES).begin(start).way(1)
    np.testing.assert_allclose(way[1], [0.0, -FAR - 1])
