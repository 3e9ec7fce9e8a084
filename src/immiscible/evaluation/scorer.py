"""What scores the runs of a system: their images, or whatever else they are trained for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from immiscible.config.groups import RunConfig
from immiscible.config.metric import Metric
from immiscible.runs.open import Run
from immiscible.samplers import Sampler
from immiscible.training.launcher import make_accelerator


def scoring_device(config: RunConfig) -> torch.device:
    """Where samples are drawn and scored: the device that this process trains on."""
    return make_accelerator(config).device


class RunScorer(Protocol):
    """Scores runs of a system, all in the same way. The row of the system names its class.

    Each score is a row: the fields of :class:`~immiscible.evaluation.kept.Question`, ``calls``, a number for each
    of the metrics, and a ``warning`` where it tells little.
    """

    @property
    def features(self) -> str:
        """What the scores are computed in; empty where they need no features."""
        ...

    @property
    def samples(self) -> int:
        """The number of samples behind each score."""
        ...

    @property
    def metrics(self) -> Sequence[Metric]:
        """What a score consists of, the metric that curves and verdicts are about first."""
        ...

    @property
    def doubts(self) -> str | None:
        """Why scores of that many tell little, where they do."""
        ...

    @classmethod
    def of(cls, asked: Any, data: Any, device: torch.device) -> RunScorer:
        """The scorer that a command asks for.

        Arguments:
            asked: The flags of ``evaluate`` or the configuration of a comparison; ``samples`` of both is the number of
                samples, 0 where the system is to choose it.
            data: The data of the runs.
            device: Where samples are drawn and scored.

        Raises:
            InputError: If there is too little of something for a score.
        """
        ...

    def score(
        self, run: Run, samplers: Sequence[Sampler], guidance: float = 1.0, noise_scale: float = 1.0
    ) -> list[dict[str, Any]]:
        """A row for each sampler, of a run at its step. Rows are kept beside the run, and measured only once."""
        ...

    def picture(self, run: Run, sampler: Sampler, noise_scale: float = 1.0) -> bytes:
        """A PNG file of a few samples, from the same noise for all runs and samplers."""
        ...
