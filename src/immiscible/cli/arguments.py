"""The flags of the commands. Imports no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from immiscible.comparison.config import CompareFlow
from immiscible.errors import InputError
from immiscible.training.config import FlowConfig

RunPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True, kw_only=True)
class Printed:
    """Of every command that prints results."""

    json: bool = False
    """Print the results as JSON."""


@dataclass(frozen=True, kw_only=True)
class TrainFlow(FlowConfig, Printed):
    """Flags of ``immiscible train flow``."""

    dry_run: bool = False
    """Print the resolved configuration and stop."""


@dataclass(frozen=True, kw_only=True)
class CompareFlowCommand(CompareFlow, Printed):
    """Flags of ``immiscible compare flow``."""


@dataclass(frozen=True, kw_only=True)
class FromRun(Printed):
    """Of commands that sample from a trained run."""

    run: RunPath
    """The run directory."""
    step: int | None = None
    """Use the checkpoint of this step instead of the newest."""
    sampler: Literal["euler", "heun"] = "euler"
    """Solver for the numbers in --nfe."""
    guidance: float = 1.0
    """Weight of classifier-free guidance; 1 is none. For class-conditional runs."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to sample."""


@dataclass(frozen=True, kw_only=True)
class Sample(FromRun):
    """Flags of ``immiscible sample``."""

    num: int = 36
    """Number of images. Image i depends on the seed and on i only."""
    nfe: str = "50"
    """Network calls per sample, or adaptive."""
    out: Path
    """A .png file (a grid), a .npz file (bytes N x H x W x C), or a directory (a PNG per image)."""
    classes: str = ""
    """Draw these classes only, by number, separated by commas. For class-conditional runs."""
    seed: int = 0
    """Seed of the starting noise."""
    overwrite: bool = False
    """Replace what stands at --out."""

    def __post_init__(self) -> None:
        if self.num < 1:
            raise InputError(f"--num must be at least 1, got {self.num}.")


@dataclass(frozen=True, kw_only=True)
class Evaluate(FromRun):
    """Flags of ``immiscible evaluate``."""

    nfe: str = "2,5,10,50,adaptive"
    """Network calls per sample to score at, separated by commas; also adaptive."""
    num: int = 0
    """Images drawn for each score; 0 for as many as the data has, at most 10,000."""
    features: Literal["auto", "inception", "classifier", "pixels"] = "auto"
    """Feature extractor of the scores."""

    def __post_init__(self) -> None:
        if self.num < 0:
            raise InputError(f"--num must be zero or more, got {self.num}.")


@dataclass(frozen=True, kw_only=True)
class Describe(Printed):
    """Flags of ``immiscible describe``."""

    coupling: Annotated[str, tyro.conf.Positional]
    """A coupling, such as knn:8 or assignment@0.5."""


def values_of(kind: type, arguments: Any) -> dict[str, Any]:
    """The values of a command's flags that a configuration takes."""
    return {field.name: getattr(arguments, field.name) for field in dataclasses.fields(kind)}
