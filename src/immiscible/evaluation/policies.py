"""The quality of policies: what comes of it where they act, or on the fork how far their plans are from the known law.

A policy is rolled out in scenes that no demonstration of :mod:`immiscible.environments.demonstrate` begins in, the same
for all policies, with the same noise. So runs are compared scene by scene.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from immiscible.config.metric import Metric
from immiscible.data.demonstrations.fork import NAME as FORK_NAME
from immiscible.environments.fork import score_on_fork
from immiscible.environments.protocol import modes_of
from immiscible.environments.rollouts import Act, Episode, roll_out, summarize
from immiscible.errors import InputError
from immiscible.evaluation.kept import Question, answer
from immiscible.evaluation.scorer import RunScorer
from immiscible.runs.open import Run
from immiscible.samplers import Sampler

# As many as Diffusion Policy rolls out, in scenes from its first one on.
EPISODES, FIRST_SCENE = 50, 100_000
# Fewer leave an interval wider than most differences.
FEW = 20
# How many of the episodes a picture or a video shows.
SHOWN = 4
# Observations that the fork is scored at, with as many plans each as there are episodes.
OBSERVATIONS = 100
# Numbers of a state and of an action of Push-T.
OF_PUSHT = (5, 2)

PUSHT = (
    Metric(
        "largest_coverage",
        "Coverage",
        "higher",
        meaning="Coverage is the largest share of the goal that the T covers in an episode, as a mean over episodes.",
    ),
    Metric("coverage", "Mean coverage", "higher", meaning="Mean coverage is over the time of an episode."),
    Metric("success", "Success", "higher", meaning="Success is the share of episodes that reach 0.95."),
    Metric(
        "score",
        "Score",
        "higher",
        meaning="The score is the largest coverage in units of 0.95, at most 1, as Diffusion Policy reports it.",
        restates="largest_coverage",
    ),
)
FORK = (
    Metric(
        "share_error",
        "Error of shares",
        "lower",
        meaning="The error of shares is how far the share of plans that go left is from the true one.",
    ),
    Metric("calibration_error", "Calibration error", "lower"),
    Metric("mean_error", "Error of means", "lower"),
    Metric("variance_error", "Error of variances", "lower"),
    Metric("strays", "Strays", "lower", meaning="Strays are plans that go neither way."),
)


@dataclass(frozen=True)
class PolicyScorer(ABC):
    """What scores policies of one kind of data, see :class:`~immiscible.evaluation.scorer.RunScorer`.

    Attributes:
        samples: The number of episodes behind each score, on the fork that of plans for each observation.
    """

    samples: int
    features = ""

    @classmethod
    def of(cls, asked: Any, data: Any, device: torch.device) -> RunScorer:
        """The scorer for the data.

        Raises:
            InputError: If the demonstrations are of nothing that can be simulated here.
        """
        samples = asked.samples or EPISODES
        demonstrations = data.demonstrations
        if demonstrations.name == FORK_NAME:
            return ForkScorer(samples)
        numbers = demonstrations.observations.shape[1], demonstrations.actions.shape[1]
        if numbers != OF_PUSHT:
            raise InputError(
                f"roll-outs need demonstrations of Push-T, with {OF_PUSHT[0]} numbers observed and {OF_PUSHT[1]} done, "
                f"got {numbers[0]} and {numbers[1]} in {demonstrations.name}: there is no simulator of others here."
            )
        return PushTScorer(samples)

    def score(
        self, run: Run, samplers: Sequence[Sampler], guidance: float = 1.0, noise_scale: float = 1.0
    ) -> list[dict[str, Any]]:
        """A row for each sampler."""
        rows = []
        for sampler in samplers:
            question = self._question(run, sampler, noise_scale)
            measure = functools.partial(self.measure, acting(run, sampler, noise_scale), sampler)
            rows.append(answer(run, question, measure, self.metrics))
        return rows

    def _question(self, run: Run, sampler: Sampler, noise_scale: float) -> Question:
        seed, task = FIRST_SCENE, self.asked
        return Question(run.step, str(sampler), sampler.name, 1.0, self.samples, seed, "", noise_scale, task=task)

    @property
    def asked(self) -> str:
        """What tells its measurements from others of the same run."""
        return "roll-outs"

    @property
    @abstractmethod
    def metrics(self) -> Sequence[Metric]:
        """What is measured."""

    @abstractmethod
    def measure(self, act: Act, sampler: Sampler) -> dict[str, Any]:
        """The network calls of a plan, and what is measured of the policy."""


def acting(run: Run, sampler: Sampler, noise_scale: float = 1.0) -> Act:
    """The policy of a run."""
    task: Any = run.task
    return task.act(run.network, sampler, noise_scale)


@dataclass(frozen=True)
class PushTScorer(PolicyScorer):
    """Rolls policies out in Push-T.

    Attributes:
        samples: The number of episodes.
        modes: Whether to count, too, which way round the T is turned from symmetric starts, see
            :mod:`immiscible.environments.protocol`.
    """

    modes: bool = False

    @property
    def asked(self) -> str:
        """What tells its measurements from others of the same run."""
        return "roll-outs and modes" if self.modes else "roll-outs"

    @property
    def metrics(self) -> Sequence[Metric]:
        """What is measured of the episodes."""
        return PUSHT

    @property
    def doubts(self) -> str | None:
        """Why few episodes say little."""
        if self.samples >= FEW:
            return None
        return f"scores of {self.samples} episodes say little: roll out at least {FEW}."

    def episodes(self, act: Act, count: int) -> list[Episode]:
        """The first of the episodes that policies are scored by."""
        return roll_out(act, range(FIRST_SCENE, FIRST_SCENE + count))

    def measure(self, act: Act, sampler: Sampler) -> dict[str, Any]:
        """The measures, with their 95 % intervals over scenes, and each episode's largest coverage."""
        episodes = self.episodes(act, self.samples)
        found = summarize(episodes)
        return {
            "calls": int(str(sampler)),
            **{name: interval.value for name, interval in found.items()},
            "intervals": {name: [interval.low, interval.high] for name, interval in found.items()},
            "largest_coverages": [round(episode.largest_coverage, 6) for episode in episodes],
            **({"modes": [modes.as_json() for modes in modes_of(act, episodes=self.samples)]} if self.modes else {}),
            **({"warning": self.doubts} if self.doubts else {}),
        }

    def picture(self, run: Run, sampler: Sampler, noise_scale: float = 1.0) -> bytes:
        """The first few episodes."""
        from immiscible.environments.picture import picture_of

        episodes = self.episodes(acting(run, sampler, noise_scale), min(SHOWN, self.samples))
        titles = [f"coverage {episode.largest_coverage:.3f}" for episode in episodes]
        return picture_of([(title, episode.states) for title, episode in zip(titles, episodes, strict=True)])

    def film(self, run: Run, sampler: Sampler, out: Path, noise_scale: float = 1.0) -> None:
        """Writes a video of the first few episodes, see :func:`immiscible.environments.video.write_video`."""
        from immiscible.environments.video import write_video

        write_video(out, self.episodes(acting(run, sampler, noise_scale), min(SHOWN, self.samples)))


@dataclass(frozen=True)
class ForkScorer(PolicyScorer):
    """Compares the law of plans with the known one, see :mod:`immiscible.environments.fork`."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """How far shares, means and variances are from the known ones."""
        return FORK

    @property
    def doubts(self) -> None:
        """Shares of any number of plans say something."""
        return None

    def measure(self, act: Act, sampler: Sampler) -> dict[str, Any]:
        """The errors."""
        found = score_on_fork(act, observations=OBSERVATIONS, plans=max(2, self.samples), seed=FIRST_SCENE)
        return {"calls": int(str(sampler)), **found.as_json()}

    def picture(self, run: Run, sampler: Sampler, noise_scale: float = 1.0) -> bytes:
        """Plans after the observation that the run's previews are of."""
        from immiscible.tasks.policy.preview import plans_png

        task: Any = run.task
        observed, seeds = task.facts.observed, range(FIRST_SCENE, FIRST_SCENE + 32)
        plans = acting(run, sampler, noise_scale)(observed.expand(len(seeds), -1, -1), list(seeds))
        return plans_png(plans, task.facts.done)
