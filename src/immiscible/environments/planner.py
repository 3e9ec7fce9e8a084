r"""A planner that solves Push-T, to make demonstrations with.

Again and again it chooses a push: where the disc goes, how it comes there around the T, which way and how far it then
pushes. The pose after each push of a table is known (:mod:`.pushes`), and so is how far the T is then from its goal,
:math:`d`. The worth of a push is the fall of :math:`\log(1 + d)` per step that it takes, on the way and pushing, by
itself or together with the best push after it. One of the best is drawn, with probabilities in proportion to
:math:`\exp(w / \tau w_\text{max})`, so that episodes differ, and the T is turned either way round.

The disc is sent a fixed distance ahead of where it is along its way, so it moves at a constant speed until the end,
and what it does next can be told from where it is, but for the choice itself.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from immiscible.environments.geometry import OUTLINE, Numbers, distance, moved, to_frame, to_scene, turned
from immiscible.environments.pushes import ADVANCES, table
from immiscible.environments.pusht import SIDE, SUCCESS, PushT, State, scene
from immiscible.environments.ways import Ways
from immiscible.seeds import derive, generator

# How far ahead the disc is sent, and how far it moves in a step for each unit of that.
AHEAD_ON_WAY, AHEAD_PUSHING, PACE = 36.0, 20.0, 0.5
# Steps that starting and stopping take, and those that the way to a second push takes.
PAUSE, BETWEEN = 6.0, 6.0
# How freely a push is drawn, and of how many.
TEMPERATURE, CONSIDERED = 0.1, 48
# How near to the walls the T's corners and the disc are sent.
MARGIN = 8.0
# Steps of an episode, and of a way or a push.
MOST_STEPS, MOST_AT_ONCE = 300, 60


@dataclass(eq=False)
class Attempt:
    """One episode, as it was.

    Attributes:
        scene: The state that the bodies were placed in, with shape (5,).
        observations: The state before each step, ``float32`` with shape (5,) each.
        actions: What was done, ``float32`` with shape (2,) each: to the bit what the simulator was given.
        coverage: The coverage after each step.
    """

    scene: State
    observations: list[NDArray[np.float32]] = field(default_factory=list)
    actions: list[NDArray[np.float32]] = field(default_factory=list)
    coverage: list[float] = field(default_factory=list)

    @property
    def solved(self) -> bool:
        """Whether the coverage in the end counts as success."""
        return bool(self.coverage) and self.coverage[-1] > SUCCESS

    @property
    def turned(self) -> float:
        """By how much the T was turned, in radians; a positive number is clockwise in pictures."""
        angles = np.array([observed[4] for observed in self.observations], np.float64)
        return float(np.diff(np.unwrap(angles)).sum())

    @property
    def over(self) -> bool:
        """Whether it is solved, or has as many steps as an episode may have."""
        return self.solved or len(self.coverage) >= MOST_STEPS


@dataclass(frozen=True, eq=False)
class Plan:
    """What to do next, in the scene.

    Attributes:
        way: The way to the push, as the points between which it is straight, with shape (P, 2).
        push: Where the push begins and ends, with shape (2, 2).
    """

    way: Numbers
    push: Numbers


def attempt(seed: int, number: int) -> Attempt:
    """Attempts an episode, which depends on the seed and the number only.

    Arguments:
        seed: The seed.
        number: Which of its episodes, not negative.

    Raises:
        InputError: If gym-pusht is not installed.
    """
    draws = generator("cpu", seed, "push-t planner", number)
    driver = _Driver(scene(derive(seed, "push-t scene", number)))
    while not driver.attempt.over:
        plan = choose(driver.state, draws)
        # Far from the goal it need not be exact.
        slack = float(distance(driver.state[2:])) / 8
        driver.follow(plan.way, AHEAD_ON_WAY, min(max(slack, 1.5), 8.0))
        driver.follow(plan.push, AHEAD_PUSHING, min(max(slack, 1.0), 6.0))
    return driver.attempt


def choose(state: State, draws: torch.Generator) -> Plan:
    """Chooses the next push.

    Arguments:
        state: The state, with shape (5,).
        draws: Which of the best is taken.
    """
    pushes, pose = table(), state[2:]
    reach = _ways().begin(to_frame(pose, state[:2]))
    poses = moved(pose, pushes.changes)
    gains = (_remaining(pose) - _remaining(poses)).ravel()
    steps = (reach.lengths[:, None, None] / (PACE * AHEAD_ON_WAY) + _steps(pushes.changes.shape)).ravel()
    allowed = _allowed(pose, poses).ravel() & np.isfinite(steps)
    # In a corner of the scene there may be none, and then the walls stop what they do not allow.
    worth = np.where(allowed if allowed.any() else True, gains / steps, -np.inf)
    best = np.argsort(-worth, kind="stable")[:CONSIDERED]
    best = best[np.isfinite(worth[best])]
    worth = np.maximum(worth[best], _with_another(poses.reshape(-1, 3)[best], gains[best], steps[best]))
    shares = np.exp((worth - worth.max()) / max(TEMPERATURE * abs(worth.max()), 1e-9))
    drawn = best[int(torch.multinomial(torch.from_numpy(shares), 1, generator=draws))]
    place, onward, advance = np.unravel_index(drawn, poses.shape[:-1])
    way = to_scene(pose, reach.way(int(place)))
    direction = turned(pushes.directions[place, onward], pose[2])
    return Plan(way, np.stack([way[-1], way[-1] + ADVANCES[advance] * direction]))


def _with_another(poses: Numbers, gains: Numbers, steps: Numbers) -> Numbers:
    """The worth of pushes together with the best push after each.

    Arguments:
        poses: The poses after the pushes, with shape (M, 3).
        gains: What they gain, with shape (M,).
        steps: What they take, with shape (M,).
    """
    changes = table().changes
    more = _remaining(poses)[:, None] - _remaining(moved(poses[:, None], changes.reshape(1, -1, 3)))
    longer = np.broadcast_to(_steps(changes.shape) + BETWEEN, changes.shape[:-1]).ravel()
    return ((gains[:, None] + more) / (steps[:, None] + longer)).max(1)


def _remaining(poses: Numbers) -> Numbers:
    """What the planner lowers: the logarithm of the distance from the goal, which does not end at nothing."""
    return np.log1p(distance(poses))


def _steps(shape: tuple[int, ...]) -> Numbers:
    """The steps of pushes, without the way to them, for a table of some shape."""
    return np.broadcast_to(ADVANCES / (PACE * AHEAD_PUSHING) + PAUSE, shape[:-1])


def _allowed(pose: Numbers, poses: Numbers) -> NDArray[np.bool_]:
    """Whether neither disc nor T is sent into a wall, with shape (N, D, L)."""
    corners = to_scene(poses[..., None, :], OUTLINE)
    starts = to_scene(pose, table().starts)
    most = SIDE / 2 - MARGIN
    free = np.abs(starts - SIDE / 2).max(-1) < most
    return (np.abs(corners - SIDE / 2).max((-1, -2)) < most) & free[:, None, None]


@functools.cache
def _ways() -> Ways:
    return Ways(table().starts, table().approaches)


class _Driver:
    """Sends the disc along ways, and keeps what was seen and done.

    Arguments:
        scene: The state that the bodies are placed in.
    """

    def __init__(self, scene: State) -> None:
        self.simulator = PushT()
        self.state = self.simulator.place(scene)
        self.attempt = Attempt(scene)

    def follow(self, way: Numbers, ahead: float, close: float) -> None:
        """Follows a way until its end is near, or the episode is over.

        Arguments:
            way: The points between which it is straight, with shape (P, 2).
            ahead: How far ahead the disc is sent.
            close: How near the end has to be.
        """
        points, at = _units(way), 0
        for _ in range(MOST_AT_ONCE):
            disc = self.state[:2]
            if self.attempt.over or np.linalg.norm(points[-1] - disc) <= close:
                return
            # Where the disc is along its way: never back, nor across to another leg of it.
            at += int(np.linalg.norm(points[at : at + MOST_AT_ONCE] - disc, axis=1).argmin())
            self._step(points[min(at + round(ahead), len(points) - 1)])

    def _step(self, target: Numbers) -> None:
        action = target.clip(0, SIDE).astype(np.float32)
        self.attempt.observations.append(self.state.astype(np.float32))
        self.attempt.actions.append(action)
        self.state = self.simulator.step(action)
        self.attempt.coverage.append(self.simulator.coverage)


def _units(way: Numbers) -> Numbers:
    """Points along a way, at most a unit apart, with shape (P, 2)."""
    parts = [way[:1]]
    for begin, end in itertools.pairwise(way):
        count = max(1, int(np.ceil(np.linalg.norm(end - begin))))
        parts.append(begin + np.arange(1, count + 1)[:, None] / count * (end - begin))
    return np.concatenate(parts)
