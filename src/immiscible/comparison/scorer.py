"""Scores the runs of a comparison, and draws samples with them, all from the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from immiscible.comparison.summary import Scoring
from immiscible.comparison.variants import Variant
from immiscible.config.comparison import Comparison
from immiscible.config.groups import RunConfig
from immiscible.config.systems import system
from immiscible.data import Images
from immiscible.evaluation.features import features_for
from immiscible.evaluation.quality import FILE, SAMPLING_SEED, Trial, evaluate_run, sample_count
from immiscible.evaluation.scores import Reference
from immiscible.io.locks import locked
from immiscible.io.png import write_grid
from immiscible.runs.open import load_run
from immiscible.samplers import Sampler
from immiscible.training.checkpoint import checkpoints, step_of
from immiscible.training.launcher import make_accelerator

GRID = 36


def scoring_device(config: RunConfig) -> torch.device:
    """Where images are drawn and scored: the device that this process trains on."""
    return make_accelerator(config).device


@dataclass(frozen=True)
class Scorer:
    """What all runs of a comparison are scored by.

    Attributes:
        data: The data that samples are scored against.
        reference: Its features.
        samplers: How to sample, each with its number of network calls.
        samples: The number of samples behind each score.
        device: Where samples are drawn.
        task: The name of the system, whose row says what is measured.
    """

    data: Images
    reference: Reference
    samplers: Sequence[Sampler]
    samples: int
    device: torch.device
    task: str

    @classmethod
    def of(cls, config: Comparison, data: Images, samplers: Sequence[Sampler], device: torch.device) -> Scorer:
        """The scorer of a comparison.

        Arguments:
            config: The comparison.
            data: Its data.
            samplers: Its samplers.
            device: Where samples are drawn and features computed.

        Raises:
            InputError: If there are too few samples or data for a score.
        """
        samples = sample_count(config.samples, data)
        reference = Reference(features_for(data, config.features, device=device), data)
        return cls(data, reference, samplers, samples, device, config.task)

    @property
    def scoring(self) -> Scoring:
        """The same as a summary states it."""
        nfes = [str(sampler) for sampler in self.samplers]
        doubts = self.reference.doubts(self.samples)
        return Scoring(self.data, self.reference.features.name, self.samples, nfes, doubts, system(self.task).metrics)

    def score(self, path: Path, variant: Variant) -> list[dict[str, Any]]:
        """The quality of a run at each of its checkpoints: a row per step and sampler."""
        rows = []
        with locked(path / FILE, directory=False, together=True):
            for step in sorted(step_of(found) for found in checkpoints(path / "checkpoints")):
                run = load_run(path, step=step, device=self.device)
                trial = Trial(self.samples, run.guidance, variant.noise_scale)
                rows += evaluate_run(run, self.reference, self.samplers, trial)
        return rows

    def draw(self, path: Path, variant: Variant, out: Path) -> dict[str, str]:
        """Grids of a run's samples, from the same noise for all runs and samplers.

        Arguments:
            path: The directory of the run.
            variant: The contender that it is of.
            out: The directory of the comparison, where the grids are written.

        Returns:
            Their paths within the directory, by number of network calls.
        """
        run = load_run(path, device=self.device)
        start = run.start(GRID, SAMPLING_SEED, variant.noise_scale)
        scaled = "" if variant.noise_scale == 1 else f"-noise-{variant.noise_scale}"
        pictures = {}
        for sampler in self.samplers:
            pictures[str(sampler)] = name = f"samples/{variant.slug}{scaled}-nfe-{sampler}.png"
            write_grid(out / name, run.sample(start, sampler, run.guidance).images.cpu())
        return pictures
