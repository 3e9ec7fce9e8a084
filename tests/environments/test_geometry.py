from __future__ import annotations

import math

import numpy as np
import pytest
import shapely

from immiscible.environments.geometry import (
    BAR,
    CENTRE,
    OUTLINE,
    RADIUS,
    SPREAD,
    STEM,
    crossed,
    distance,
    inflated,
    inside,
    moved,
    to_frame,
    to_scene,
)
from immiscible.environments.pusht import GOAL

POSES = np.array([[100.0, 200.0, 0.3], [256.0, 256.0, math.pi / 4], [400.0, 120.0, 5.9]])


def test_the_outline_is_that_of_the_simulator() -> None:
    from gym_pusht.envs.pusht import PushTEnv

    simulator = PushTEnv()
    simulator.reset(seed=0)
    parts = [shapely.Polygon(shape.get_vertices()) for shape in simulator.block.shapes]
    assert shapely.Polygon(OUTLINE).symmetric_difference(shapely.union_all(parts)).area == pytest.approx(0)
    assert shapely.union_all([shapely.box(*BAR), shapely.box(*STEM)]).area == shapely.Polygon(OUTLINE).area
    assert next(iter(simulator.agent.shapes)).radius == RADIUS


def test_distance_is_that_of_all_points_of_the_t() -> None:
    low, high = OUTLINE.min(0), OUTLINE.max(0)
    points = np.random.default_rng(0).uniform(low, high, (400_000, 2))
    points = points[inside(points, 0)]
    np.testing.assert_allclose(points.mean(0), CENTRE, atol=0.3)
    np.testing.assert_allclose(((points - CENTRE) ** 2).sum(1).mean(), SPREAD, rtol=0.01)
    apart = to_scene(POSES[:, None], points) - to_scene(np.array(GOAL), points)
    np.testing.assert_allclose(distance(POSES), np.sqrt((apart**2).sum(-1).mean(-1)), rtol=0.01, atol=1e-9)


def test_frames_are_there_and_back() -> None:
    points = np.array([[3.0, 5.0], [-7.0, 11.0], [0.0, 0.0]])
    np.testing.assert_allclose(to_frame(POSES, to_scene(POSES, points)), points, atol=1e-9)
    # A change that is seen in the T's own frame moves its points as it moves those of a T at the origin.
    change = np.array([2.0, -3.0, 0.4])
    np.testing.assert_allclose(
        to_scene(moved(POSES, np.tile(change, (3, 1))), points), to_scene(POSES, to_scene(change, points)), atol=1e-9
    )


@pytest.mark.parametrize("by", [0.5, 15, 27])
def test_what_lies_inside_and_what_crosses_is_what_shapely_says(by: float) -> None:
    wider = shapely.Polygon(OUTLINE).buffer(by, join_style="mitre", mitre_limit=10)
    assert wider.symmetric_difference(shapely.Polygon(inflated(by))).area == pytest.approx(0, abs=1e-6)
    points = np.random.default_rng(1).uniform((-150, -100), (150, 220), (600, 2))
    np.testing.assert_array_equal(inside(points, by), shapely.contains_xy(wider, points))
    outside = points[~inside(points, by)]
    ends, others = outside[: len(outside) // 2], outside[len(outside) // 2 :][: len(outside) // 2]
    lines = shapely.linestrings(np.stack([ends, others], 1))
    np.testing.assert_array_equal(crossed(ends, others, by), shapely.intersects(wider, lines))
