"""What a comparison is, as plain data. Imports no torch, so that the command line can parse it at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from immiscible.config.groups import ImagesOrNone, Recipe, Seed, Share
from immiscible.config.recipes import ConsistencyRecipe, DDIMRecipe, FlowRecipe, StableDiffusionRecipe
from immiscible.config.values import Range, kind_of, quoted, told
from immiscible.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CompareFields(Recipe):
    """Trains each coupling from the same weights on the same data order and times, and reports what it changed.

    Writes report.html, summary.json and pictures to the directory. Finished runs are reused; a killed comparison
    resumes.
    """

    out: Path = Path("runs/compare")
    """Directory of the comparison."""
    couplings: str = "independent,knn:4,assignment,assignment@0.5"
    """Couplings to compare, separated by commas; independent is the baseline. Each may change settings in brackets:
    knn:4[cost-space=raw], independent[noise-scale=0.97]."""
    seeds: str = "0,1,2"
    """Seeds to train each coupling with, separated by commas."""
    nfe: str = ""
    """Network calls per sample to score at, separated by commas."""
    sampler: str = "auto"
    """Sampling method."""
    evaluations: Annotated[int, Range(most=10**9, why="each is a checkpoint")] = 8
    """Scores along each training, evenly spaced."""
    samples: ImagesOrNone = 0
    """Images drawn for each score; 0 for as many as the data has, at most 10,000."""
    features: Literal["auto", "inception", "classifier", "pixels"] = "auto"
    """Feature extractor of the scores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.evaluations <= self.steps:
            raise InputError(f"--evaluations must be from 1 to --steps = {self.steps}, got {self.evaluations}.")
        if len(set(self.seed_list)) < len(self.seed_list):
            raise InputError(f"--seeds must be different, got {told(self.seeds)}.")

    @property
    def seed_list(self) -> list[int]:
        """The seeds as numbers."""
        try:
            found = [int(word) for word in self.seeds.split(",")]
        except ValueError:
            raise InputError(
                f"--seeds must be whole numbers separated by commas, such as 0,1,2, got {quoted(self.seeds)}."
            ) from None
        for seed in found:
            if complaint := kind_of("seeds", Seed).complaint(seed):
                raise InputError(f"--seeds {complaint}.")
        return found


@dataclass(frozen=True, kw_only=True)
class CompareFlow(FlowRecipe, CompareFields):
    """A comparison of couplings in flow matching."""

    out: Path = Path("runs/compare-flow")
    """Directory of the comparison."""
    nfe: str = FlowRecipe.nfes
    """Network calls per sample to score at, separated by commas; also adaptive."""
    sampler: Literal["auto", "euler", "heun"] = "auto"
    """Solver for the numbers in --nfe; auto is euler."""


@dataclass(frozen=True, kw_only=True)
class CompareDDIM(DDIMRecipe, CompareFields):
    """A comparison of couplings in diffusion."""

    out: Path = Path("runs/compare-ddim")
    """Directory of the comparison."""
    nfe: str = DDIMRecipe.nfes
    """Network calls per sample to score at, separated by commas."""
    sampler: Literal["auto", "ddim", "ddpm"] = "auto"
    """Sampling method; auto is ddim."""
    eta: Share = 0.0
    """Share of fresh noise of ddim, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class CompareConsistency(ConsistencyRecipe, CompareFields):
    """A comparison of couplings in consistency training."""

    out: Path = Path("runs/compare-consistency")
    """Directory of the comparison."""
    nfe: str = ConsistencyRecipe.nfes
    """Network calls per sample to score at, separated by commas."""
    sampler: Literal["auto", "multistep"] = "auto"
    """Sampling method."""


@dataclass(frozen=True, kw_only=True)
class CompareStableDiffusion(StableDiffusionRecipe, CompareFields):
    """A comparison of couplings in Stable Diffusion."""

    out: Path = Path("runs/compare-stable-diffusion")
    """Directory of the comparison."""
    couplings: str = "independent,knn:64,knn:8,assignment"
    """Couplings to compare, separated by commas; independent is the baseline. Each may change settings in brackets:
    knn:64[cost-space=raw], independent[noise-scale=0.97]."""
    nfe: str = StableDiffusionRecipe.nfes
    """Sampling steps to score at, separated by commas."""
    sampler: Literal["auto", "ddim", "pndm", "dpm++", "euler"] = "auto"
    """Scheduler of the samples; auto is ddim."""


Compare = CompareFlow | CompareDDIM | CompareConsistency | CompareStableDiffusion
