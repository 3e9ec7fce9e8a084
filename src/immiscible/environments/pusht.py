r"""Push-T: a disc pushes a T onto the outline of a T, in the simulator of gym-pusht.

A state has five numbers: the disc's position :math:`(x, y)`, the position of the T (of the middle of its bar's outer
edge), and its angle in :math:`[0, 2\pi)`. Positions lie in [0, 512], and y points down. An action is where the disc
should go, as a position; ten of them are a second. The goal is :math:`(256, 256, \pi / 4)`, and *coverage* is the share
of the goal that the T covers.

The T is its own mirror image, and so is the scene: about the line :math:`x + y = 512`, the goal's axis, which
:func:`mirror_states` and :func:`mirror_actions` reflect at. A mirrored scene under mirrored actions is the mirror image
of what was, to within rounding, as long as the T touches no wall: the walls stand at 5 and 506, half a unit off.

Source: Chi et al., "Diffusion Policy" (arXiv 2303.04137); Florence et al., "Implicit Behavioral Cloning" (arXiv
2109.00137).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from immiscible.errors import InputError

State = NDArray[np.float64]
# Positions lie in [0, SIDE], and the goal in the middle.
SIDE = 512
GOAL = (SIDE / 2, SIDE / 2, math.pi / 4)
# How far the T's centre of mass lies from its position.
LEVER = 45
# Coverage above this ends an episode, with success.
SUCCESS = 0.95
# Actions a second.
RATE = 10
# Of coverage. gym-pusht adds the areas of bar and stem in the order of a set, which differs from process to process,
# and with it the last bit.
DIGITS = 9
# Where the disc, the T and the walls are apart.
APART = (50.0, 50.0, 256.0, 256.0, 0.0)


class PushT:
    """One simulator. What it does is a function of where it was placed and of the actions since.

    gym-pusht's own ``reset_to_state`` sets the angle after the position, and about the centre of mass, so that the T
    lies elsewhere than asked. Here the bodies are placed by themselves, at rest.

    Arguments:
        pixels: The width and height of :meth:`frame`.

    Raises:
        InputError: If gym-pusht is not installed.
    """

    def __init__(self, pixels: int = 96) -> None:
        try:
            from gym_pusht.envs.pusht import PushTEnv, pymunk_to_shapely
        except ModuleNotFoundError as error:
            raise InputError(
                "Push-T needs gym-pusht, which is not installed: `pip install 'immiscible-diffusion[policy]'`."
            ) from error
        self._outline: Any = pymunk_to_shapely
        self._env: Any = PushTEnv(
            obs_type="state", render_mode="rgb_array", visualization_width=pixels, visualization_height=pixels
        )
        self.place(APART)

    def place(self, state: Any) -> State:
        """Puts the bodies where a state says, at rest, and returns the state.

        Bodies that overlap each other or a wall are pushed apart from here on, as the simulator does it.

        Arguments:
            state: The state, five numbers.

        Raises:
            InputError: If it is not five finite numbers.
        """
        placed = np.asarray(state, np.float64)
        if placed.shape != (5,) or not np.isfinite(placed).all():
            raise InputError(f"a state of Push-T must have five finite numbers, got {state}.")
        # A new space, in which no contact of an earlier episode is remembered.
        self._env.reset(options={"reset_to_state": np.array(APART)})
        disc, block = self._env.agent, self._env.block
        # The angle first: it turns the T about its centre of mass, which moves its position.
        block.angle = float(placed[4])
        block.position, disc.position = placed[2:4].tolist(), placed[:2].tolist()
        for body in (disc, block):
            body.velocity, body.angular_velocity = (0.0, 0.0), 0.0
        # The space learns where the shapes are when it steps.
        self._env.space.step(self._env.dt)
        self._coverage = self._covered()
        return self.state

    def begin(self, seed: int) -> State:
        """Puts the bodies where the scene of a seed has them, see :func:`scene`."""
        return self.place(scene(seed))

    def step(self, action: Any) -> State:
        """Has the disc go towards a position for a tenth of a second, and returns the state.

        Arguments:
            action: The position, two numbers.
        """
        state, *_, info = self._env.step(np.asarray(action, np.float64))
        self._coverage = round(float(info["coverage"]), DIGITS)
        return state

    @property
    def state(self) -> State:
        """The state, with shape (5,)."""
        return self._env.get_obs()

    @property
    def coverage(self) -> float:
        """The share of the goal that the T covers, as gym-pusht computes it."""
        return self._coverage

    def _covered(self) -> float:
        shapes = self._env.block.shapes
        goal = self._outline(self._env.get_goal_pose_body(self._env.goal_pose), shapes)
        return round(float(goal.intersection(self._outline(self._env.block, shapes)).area / goal.area), DIGITS)

    def frame(self) -> NDArray[np.uint8]:
        """A picture, with shape (pixels, pixels, 3). The last action is a cross."""
        return self._env.render()


def scene(seed: int) -> State:
    """The state that an episode starts in: the one in which gym-pusht begins for a seed.

    It draws a state, places the T's centre of mass at an angle of 0, and turns it there. This is the state it has then.

    Arguments:
        seed: The seed, not negative.

    Raises:
        InputError: If the seed is negative.
    """
    if seed < 0:
        raise InputError(f"the seed of a scene must not be negative, got {seed}.")
    draws = np.random.default_rng(seed)
    *disc, x, y = (draws.integers(low, high) for low, high in [(50, 450), (50, 450), (100, 400), (100, 400)])
    angle = draws.uniform(-math.pi, math.pi)
    block = [x + LEVER * math.sin(angle), y + LEVER * (1 - math.cos(angle))]
    return np.array([*disc, *block, angle % (2 * math.pi)], np.float64)


def mirror_states(states: Tensor) -> Tensor:
    r"""States reflected at the goal's axis: :math:`(x, y) \to (512 - y, 512 - x)` and :math:`a \to \pi / 2 - a`.

    Arguments:
        states: The states, with shape (\*, 5).

    Returns:
        Their mirror images, with the same shape; angles in :math:`[0, 2\pi)`.
    """
    turned = states.new_tensor([SIDE, SIDE, SIDE, SIDE, math.pi / 2]) - states[..., [1, 0, 3, 2, 4]]
    turned[..., 4] %= 2 * math.pi
    return turned


def mirror_actions(actions: Tensor) -> Tensor:
    r"""Actions reflected at the goal's axis: :math:`(x, y) \to (512 - y, 512 - x)`.

    Arguments:
        actions: The actions, with shape (\*, 2).

    Returns:
        Their mirror images, with the same shape.
    """
    return SIDE - actions[..., [1, 0]]
