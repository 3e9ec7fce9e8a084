"""What a comparison is, as plain data. Imports no torch, so that the command line can parse it at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from immiscible.errors import InputError
from immiscible.training.config import FlowRecipe


@dataclass(frozen=True, kw_only=True)
class CompareFlow(FlowRecipe):
    """Trains each coupling from the same weights on the same data order and times, and reports what it changed.

    Writes report.html, summary.json and pictures to the directory. Finished runs are reused; a killed comparison
    resumes.
    """

    out: Path = Path("runs/compare-flow")
    """Directory of the comparison."""
    couplings: str = "independent,knn:4,assignment,assignment@0.5"
    """Couplings to compare, separated by commas; independent is the baseline."""
    seeds: str = "0,1,2"
    """Seeds to train each coupling with, separated by commas."""
    nfe: str = "2,5,10,50"
    """Network calls per sample to score at, separated by commas; also adaptive."""
    sampler: Literal["euler", "heun"] = "euler"
    """Solver for the numbers in --nfe."""
    evaluations: int = 8
    """Scores along each training, evenly spaced."""
    samples: int = 0
    """Images drawn for each score; 0 for as many as the data has, at most 10,000."""
    features: Literal["auto", "inception", "classifier", "pixels"] = "auto"
    """Feature extractor of the scores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.evaluations <= self.steps:
            raise InputError(f"--evaluations must be from 1 to --steps = {self.steps}, got {self.evaluations}.")
        if self.samples < 0:
            raise InputError(f"--samples must be zero or more, got {self.samples}.")
        if len(set(self.seed_list)) < len(self.seed_list):
            raise InputError(f"--seeds must be different, got {self.seeds}.")

    @property
    def seed_list(self) -> list[int]:
        """The seeds as numbers."""
        try:
            return [int(word) for word in self.seeds.split(",")]
        except ValueError:
            raise InputError(
                f"--seeds must be whole numbers separated by commas, such as 0,1,2, got {self.seeds!r}."
            ) from None
