"""Roll-outs: a policy acts in Push-T, and what comes of it.

A policy sees the last two states, plans 16 actions, carries out 8 of them and looks again. It is given the seed of each
plan's noise, which depends on the episode and on the time only. So two policies that are rolled out for the same seeds
meet the same scenes with the same noise, and are compared scene by scene.

What is measured of an episode: its coverage, as a mean over time, at most, and at its end; its *success*, coverage
above 0.95, which ends it; and its *score*, the largest coverage in units of 0.95, at most 1. The score is what
Diffusion Policy reports: the mean over scenes of the largest reward, where the reward of gym-pusht is coverage over
0.95, clipped to [0, 1].

Source: Chi et al., "Diffusion Policy" (arXiv 2303.04137), section 5 and ``pusht_keypoints_runner.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from immiscible.environments.intervals import Interval, mean_interval, share_interval
from immiscible.environments.pusht import SUCCESS, PushT, State, scene
from immiscible.errors import InputError
from immiscible.seeds import derive

# Observations with shape (N, history, 5) and a seed of the noise of each plan, to plans with shape (N, horizon, 2).
Act = Callable[[Tensor, Sequence[torch.Generator | int]], Tensor]
# How many simulators are side by side.
AT_ONCE = 128
MEASURES = ("coverage", "largest_coverage", "last_coverage", "success", "score")


@dataclass(frozen=True, eq=False)
class Episode:
    """What happened in one scene.

    Attributes:
        seed: The seed of the scene, and of the noise of its plans.
        start: The state that it was placed in, with shape (5,).
        states: The states, with shape (T + 1, 5): at the beginning, and after each action.
        actions: The actions that were carried out, with shape (T, 2).
        coverages: The coverage in each of the states, with shape (T + 1,).
        steps: How many actions there could have been.
    """

    seed: int
    start: State
    states: NDArray[np.float64]
    actions: NDArray[np.float64]
    coverages: NDArray[np.float64]
    steps: int

    @property
    def coverage(self) -> float:
        """The mean coverage over time. Time that success left over counts with the coverage at the end."""
        left = self.steps - len(self.actions)
        return float((self.coverages.sum() + left * self.coverages[-1]) / (self.steps + 1))

    @property
    def largest_coverage(self) -> float:
        """The largest coverage at any time."""
        return float(self.coverages.max())

    @property
    def last_coverage(self) -> float:
        """The coverage at the end."""
        return float(self.coverages[-1])

    @property
    def success(self) -> bool:
        """Whether coverage was above 0.95 at any time."""
        return self.largest_coverage > SUCCESS

    @property
    def score(self) -> float:
        """The largest coverage in units of 0.95, at most 1."""
        return min(1.0, self.largest_coverage / SUCCESS)


@dataclass
class _Running:
    """An episode in the making."""

    seed: int
    start: State
    simulator: PushT
    states: list[State] = field(default_factory=list)
    actions: list[NDArray[np.float64]] = field(default_factory=list)
    coverages: list[float] = field(default_factory=list)

    def begin(self) -> _Running:
        self._see(self.simulator.place(self.start))
        return self

    def carry_out(self, actions: NDArray[np.float64]) -> None:
        """Carries actions out, until the episode is over."""
        for action in actions:
            self.actions.append(action)
            self._see(self.simulator.step(action))
            if self.over:
                return

    def _see(self, state: State) -> None:
        self.states.append(state)
        self.coverages.append(self.simulator.coverage)

    @property
    def over(self) -> bool:
        return self.coverages[-1] > SUCCESS

    def observed(self, history: int) -> NDArray[np.float64]:
        """The last states; at the beginning the first one stands for those before."""
        return np.stack([self.states[max(0, len(self.states) - ago)] for ago in range(history, 0, -1)])

    def ended(self, steps: int) -> Episode:
        actions = np.stack(self.actions) if self.actions else np.zeros((0, 2))
        return Episode(self.seed, self.start, np.stack(self.states), actions, np.array(self.coverages), steps)


def roll_out(
    act: Act,
    seeds: Sequence[int],
    *,
    states: Sequence[State] | None = None,
    executed: int = 8,
    history: int = 2,
    max_steps: int = 300,
) -> list[Episode]:
    """Lets a policy act in Push-T, in many scenes side by side.

    A plan begins with the action of the oldest observed state, as windows of demonstrations do: of its actions those
    from ``history - 1`` on are carried out. The same call gives the same episodes.

    Arguments:
        act: The policy: it is given observations, ``float32`` with shape (N, ``history``, 5), and a seed for the noise
            of each plan, and returns plans with shape (N, horizon, 2), both in the units of the simulator.
        seeds: The seed of each episode: of its scene, and of the noise of its plans.
        states: The states that the episodes start in; by default the scenes of the seeds.
        executed: How many actions of a plan are carried out before the next.
        history: How many states are observed.
        max_steps: How many actions an episode has at most.

    Raises:
        InputError: If a plan is too short, of another shape, or not finite; if there are not as many states as seeds.
    """
    starts = [scene(seed) for seed in seeds] if states is None else list(states)
    if len(starts) != len(seeds):
        raise InputError(f"there must be a state for each of the {len(seeds)} seeds, got {len(starts)}.")
    episodes: list[Episode] = []
    for first in range(0, len(seeds), AT_ONCE):
        these = slice(first, first + AT_ONCE)
        running = [_Running(*each, PushT()).begin() for each in zip(seeds[these], starts[these], strict=True)]
        for step in range(0, max_steps, executed):
            going = [one for one in running if not one.over]
            plans = _plan(act, going, step, history, min(executed, max_steps - step)) if going else ()
            for one, actions in zip(going, plans, strict=True):
                one.carry_out(actions)
        episodes += [one.ended(max_steps) for one in running]
    return episodes


def _plan(act: Act, running: list[_Running], step: int, history: int, count: int) -> NDArray[np.float64]:
    """What each episode does next, with shape (N, count, 2).

    Arguments:
        act: The policy.
        running: The episodes.
        step: How many actions they had so far.
        history: How many states are observed.
        count: How many actions are carried out.
    """
    observations = torch.from_numpy(np.stack([one.observed(history) for one in running])).float()
    draws = [derive(one.seed, "roll-out", step) for one in running]
    with torch.no_grad():
        plans = act(observations, draws)
    first, last = history - 1, history - 1 + count
    if plans.ndim != 3 or plans.shape[::2] != (len(running), 2) or plans.shape[1] < last:
        raise InputError(f"plans must have shape ({len(running)}, {last} or more, 2), got {tuple(plans.shape)}.")
    if not plans.isfinite().all():
        raise InputError(f"plans must be finite, got others at step {step}: has the training diverged?")
    return plans[:, first:last].double().cpu().numpy()


def summarize(episodes: Sequence[Episode]) -> dict[str, Interval]:
    """The measures over scenes: means with bootstrap intervals, and of success the share with its Wilson interval.

    Arguments:
        episodes: The episodes, at least one.
    """
    return {name: _interval(name, [getattr(episode, name) for episode in episodes]) for name in MEASURES}


def _interval(name: str, numbers: list[float]) -> Interval:
    return share_interval([bool(number) for number in numbers]) if name == "success" else mean_interval(numbers)


def differences(episodes: Sequence[Episode], others: Sequence[Episode]) -> dict[str, Interval]:
    """How much better a policy does than another one, over the same scenes: means with bootstrap intervals of pairs.

    Arguments:
        episodes: The episodes of the policy.
        others: Those of the other one, in the same scenes and order.

    Raises:
        InputError: If the scenes differ.
    """
    same = len(episodes) == len(others) and all(
        one.seed == other.seed and np.array_equal(one.start, other.start)
        for one, other in zip(episodes, others, strict=True)
    )
    if not same:
        raise InputError("roll-outs must be of the same scenes in the same order to be compared.")
    pairs = list(zip(episodes, others, strict=True))
    return {
        name: mean_interval([float(getattr(one, name)) - float(getattr(other, name)) for one, other in pairs])
        for name in MEASURES
    }
