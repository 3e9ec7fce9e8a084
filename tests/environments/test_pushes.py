from __future__ import annotations

import numpy as np

from immiscible.environments.geometry import moved, to_scene, turned
from immiscible.environments.pushes import ADVANCES, table
from immiscible.environments.pusht import PushT


def test_a_push_does_anywhere_what_it_did_in_the_table() -> None:
    pushes, simulator, draws = table(), PushT(), np.random.default_rng(0)
    for _ in range(12):
        pose = np.array([*draws.uniform(230, 280, 2), draws.uniform(0, 2 * np.pi)])
        place, onward, advance = (draws.integers(count) for count in (*pushes.directions.shape[:2], 12))
        start = to_scene(pose, pushes.starts[place])
        direction = turned(pushes.directions[place, onward], pose[2])
        simulator.place([*start, *pose])
        for step in range(40):
            state = simulator.step(start + min(5.0 * (step + 1), ADVANCES[advance]) * direction)
        expected = moved(pose, pushes.changes[place, onward, advance])
        np.testing.assert_allclose(state[2:4], expected[:2], atol=1.5)
        np.testing.assert_allclose(np.exp(1j * state[4]), np.exp(1j * expected[2]), atol=0.02)


def test_the_table_is_its_own_mirror_image() -> None:
    pushes = table()
    order = np.lexsort((pushes.starts * [1, 1]).T)
    other = np.lexsort((pushes.starts * [-1, 1]).T)
    np.testing.assert_allclose(pushes.starts[order], pushes.starts[other] * [-1, 1], atol=1e-9)
    mirrored = pushes.changes[other][:, ::-1] * [-1, 1, -1]
    np.testing.assert_allclose(pushes.changes[order], mirrored, atol=1e-6)
