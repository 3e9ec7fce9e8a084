"""What a comparison is, as plain data. Imports no torch, so that the command line can parse it at once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from typing_extensions import Doc

from immiscible.config.groups import FeatureNames, ImagesOrNone, Recipe, RunFields, Seed, Share
from immiscible.config.systems import System, config_of, system
from immiscible.config.values import Range, kind_of, kinds, quoted, told
from immiscible.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Comparison(Recipe):
    """Trains each coupling from the same weights on the same data order and times, and reports what it changed.

    Writes report.html, summary.json and pictures to the directory. Finished runs are reused; a killed comparison
    resumes. :func:`comparison_of` adds what is a system's own.
    """

    out: Path = Path("runs/compare")
    """Directory of the comparison."""
    couplings: str = ""
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
    features: FeatureNames = "auto"
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


@functools.cache
def comparison_of(name: str) -> type[Comparison]:
    """The class of a system's comparisons: what its runs have in common, and the fields of a comparison.

    It is made from the system's row. As a class of its own it is as flat as a run's: a field is a flag.
    """
    row = system(name)
    # What each run has of its own is no field of a comparison.
    hidden = [(field, ClassVar[Any], None) for field in kinds(RunFields) if field != "out"]
    return dataclasses.make_dataclass(
        f"Comparison of {row.title}",
        [(field, hint, dataclasses.field(default=default)) for field, hint, default in [*hidden, *_own(row)]],
        bases=(config_of(name), Comparison),
        frozen=True,
        kw_only=True,
    )


def _own(row: System) -> Iterable[tuple[str, Any, Any]]:
    """The fields whose defaults, choices or help depend on the system."""
    knn = next((word for word in row.couplings.split(",") if word.startswith("knn")), "knn:4")
    brackets = f"{knn}[cost-space=raw], independent[noise-scale=0.97]"
    calls = "Sampling steps" if row.prompted else "Network calls per sample"
    also = f"; also {' or '.join(row.numberless)}" if row.numberless else ""
    yield "out", Annotated[Path, Doc("Directory of the comparison.")], Path(f"runs/compare-{row.name}")
    yield (
        "couplings",
        Annotated[
            str,
            Doc(
                "Couplings to compare, separated by commas; independent is the baseline. Each may change settings in "
                f"brackets: {brackets}."
            ),
        ],
        row.couplings,
    )
    yield "nfe", Annotated[str, Doc(f"{calls} to score at, separated by commas{also}.")], row.nfe
    yield "sampler", Annotated[one_of(row.methods), Doc(f"Sampling method; auto is {row.methods[0]}.")], "auto"
    if row.scored != "images":
        many = Doc(f"{row.scored[:1].upper()}{row.scored[1:]} behind each score; 0 for what is usual.")
        yield "samples", Annotated[int, Range(0, 10**7, "they take weeks"), many], 0
        yield "features", ClassVar[Any], "auto"
    if row.eta:
        yield "eta", Annotated[Share, Doc(f"Share of fresh noise of {row.eta}, in [0, 1].")], 0.0


def one_of(methods: Iterable[str]) -> Any:
    """The type of a flag that takes one of some methods, or ``auto``."""
    return Literal[("auto", *methods)]  # pyright: ignore[reportInvalidTypeForm]
