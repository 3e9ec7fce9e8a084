"""Scores the runs of a comparison, and draws samples with them, all from the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from immiscible.comparison.summary import Scoring
from immiscible.comparison.variants import Variant
from immiscible.config.comparison import Comparison
from immiscible.config.systems import imported, system
from immiscible.data import Images
from immiscible.evaluation.kept import FILE
from immiscible.evaluation.quality import ImageScorer
from immiscible.evaluation.scorer import RunScorer
from immiscible.evaluation.scorer import scoring_device as scoring_device
from immiscible.io.files import write_bytes
from immiscible.io.locks import locked
from immiscible.runs.open import Run, load_run
from immiscible.runs.prior import NoCalls, Prior, PriorRun, begun
from immiscible.samplers import Sampler
from immiscible.training.checkpoint import checkpoints, step_of


@dataclass(frozen=True)
class Scorer:
    """What all runs of a comparison are scored by, at each of their checkpoints.

    Attributes:
        data: The data of the runs.
        runs: What scores one of them.
        samplers: How to sample, each with its number of network calls.
        device: Where samples are drawn.
        priors: The priors of the data that were asked for, by the number of components and whether it is by class.
    """

    data: Images
    runs: RunScorer
    samplers: Sequence[Sampler]
    device: torch.device
    priors: dict[tuple[int, bool], Prior] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Comparison, data: Images, samplers: Sequence[Sampler], device: torch.device) -> Scorer:
        """The scorer of a comparison.

        Arguments:
            config: The comparison.
            data: Its data.
            samplers: Its samplers.
            device: Where samples are drawn and scored.

        Raises:
            InputError: If there are too few samples or data for a score.
        """
        runs = imported(system(config.task).scorer).of(config, data, device)
        return cls(data, runs, samplers, device)

    @property
    def scoring(self) -> Scoring:
        """The same as a summary states it."""
        nfes = [str(sampler) for sampler in self.samplers]
        runs = self.runs
        # Of images only.
        faults = getattr(runs, "faults", None)
        return Scoring(self.data, runs.features, runs.samples, nfes, runs.doubts, runs.metrics, faults)

    def score(self, path: Path, variant: Variant) -> list[dict[str, Any]]:
        """The quality of a run at each of its checkpoints: a row per step and sampler."""
        rows = []
        with locked(path / FILE, directory=False, together=True):
            for step in sorted(step_of(found) for found in checkpoints(path / "checkpoints")):
                run = self._opened(path, variant, step)
                rows += self.runs.score(run, self.samplers, run.guidance, variant.noise_scale)
        return rows

    def _opened(self, path: Path, variant: Variant, step: int | None = None) -> Run:
        """A run whose samples start where the contender's do."""
        return begun(load_run(path, step=step, device=self.device), variant.start, self.prior)

    def prior(self, components: int, by_class: bool) -> Prior:
        """A prior of the data, the same one for the same arguments, so that it is fitted only once."""
        return self.priors.setdefault((components, by_class), Prior(self.data, components, by_class))

    def score_prior(self, prior: Prior, out: Path) -> dict[str, Any]:
        """The quality of a prior by itself, as a row like those of runs.

        Arguments:
            prior: The prior.
            out: The directory of the comparison, where the scores are kept.
        """
        run = self._prior_run(prior, out)
        run.path.mkdir(parents=True, exist_ok=True)
        with locked(run.path / FILE, directory=False, together=True):
            return self._images.score(run, [NoCalls()])[0]

    def draw_prior(self, prior: Prior, variant: Variant, out: Path) -> dict[str, str]:
        """A picture of a prior's samples, the same for all numbers of network calls, see :meth:`draw`."""
        name = f"samples/{variant.picture}.png"
        write_bytes(out / name, self._images.picture(self._prior_run(prior, out), NoCalls()))
        return {str(sampler): name for sampler in self.samplers}

    @property
    def _images(self) -> ImageScorer:
        assert isinstance(self.runs, ImageScorer)
        return self.runs

    def _prior_run(self, prior: Prior, out: Path) -> PriorRun:
        kind = "by-class" if prior.by_class else "of-all"
        name = f"components-{prior.components}-{kind}-{self.data.fingerprint()[:16]}"
        return PriorRun(out / "priors" / name, prior)

    def draw(self, path: Path, variant: Variant, out: Path) -> dict[str, str]:
        """Pictures of a run's samples, from the same noise for all runs and samplers.

        Arguments:
            path: The directory of the run.
            variant: The contender that it is of.
            out: The directory of the comparison, where the pictures are written.

        Returns:
            Their paths within the directory, by number of network calls.
        """
        run = self._opened(path, variant)
        pictures = {}
        for sampler in self.samplers:
            pictures[str(sampler)] = name = f"samples/{variant.picture}-nfe-{sampler}.png"
            write_bytes(out / name, self.runs.picture(run, sampler, variant.noise_scale))
        return pictures
