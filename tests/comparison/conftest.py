"""Made-up comparisons whose figures are known, in the shape of a prototype run on digits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from matplotlib import image

from immiscible.comparison.schema import CouplingResult, Point, Score, StepsRatio, Summary

STEPS = (250, 500, 750, 1000, 1250, 1500, 1750, 2000)
FINAL = {
    "independent": {"2": 133.0, "5": 28.8, "10": 15.8, "50": 9.5},
    "knn:4": {"2": 83.0, "5": 20.3, "10": 12.7, "50": 9.45},
    "assignment": {"2": 35.0, "5": 16.3, "10": 13.3, "50": 12.1},
    "assignment@0.5": {"2": 71.0, "5": 15.3, "10": 10.6, "50": 8.5},
}
# By seed; no two couplings share their order, so that differences spread.
NOISE = {
    "independent": (0.0, 0.02, -0.01),
    "knn:4": (0.01, -0.02, 0.015),
    "assignment": (-0.01, 0.03, 0.0),
    "assignment@0.5": (0.0, 0.01, 0.02),
}
RATIOS = {
    "knn:4": (0.6, 0.6, 0.7, None),
    "assignment": (0.25, 0.33, 0.5, None),
    "assignment@0.5": (0.4, 0.4, 0.5, 0.75),
}


def score(*values: float) -> Score:
    """A score from its values per seed."""
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "values": list(values),
    }


def _point(name: str, nfe: str, step: int, end: float, seeds: int) -> Point:
    fid = end * (1 + 3 * math.exp(-step / 450))
    quality = 1 / (1 + fid / 40)
    noise = NOISE.get(name, (0.01, 0.0, -0.01))[:seeds]
    return {
        "step": step,
        "nfe_mean": float(nfe) if nfe.isdecimal() else 61.4,
        "fid": score(*(fid * (1 + shift) for shift in noise)),
        "kid": score(*(0.0004 * fid * (1 + shift) - 0.003 for shift in noise)),
        "precision": score(*(0.9 * quality + 0.3 * shift for shift in noise)),
        "recall": score(*(0.8 * quality - 0.3 * shift for shift in noise)),
    }


def _ratio(value: float | None, seeds: int) -> StepsRatio:
    values = [None if value is None else value + 0.02 * seed for seed in range(seeds)]
    reached = [one for one in values if one is not None]
    return {"ratio": score(*reached) if reached else None, "reached": len(reached), "of": seeds, "values": list(values)}


def _coupling(name: str, seeds: int, nfes: list[str]) -> CouplingResult:
    ends = FINAL.get(name, FINAL["independent"])
    ratios = dict(zip(FINAL["independent"], RATIOS.get(name, (1.0, 1.0, 1.0, 1.0)), strict=True))
    pairing, knn = (0.02, False) if name == "independent" else (0.31, True) if name.startswith("knn") else (2.2, False)
    return {
        "description": {"moves": f"what {name} moves", "marginal": "exact or not", "cost": "O(B D)"},
        "curves": {nfe: [_point(name, nfe, step, ends.get(nfe, 9.0), seeds) for step in STEPS] for nfe in nfes},
        "steps_to_baseline": {nfe: _ratio(ratios.get(nfe), seeds) for nfe in nfes},
        "pairing_ms": score(*(pairing * (1 + 0.1 * seed) for seed in range(seeds))),
        "step_ms": score(*(14.3 + pairing + 0.2 * seed for seed in range(seeds))),
        "overhead_percent": score(*(100 * pairing / 14.3 * (1 + 0.1 * seed) for seed in range(seeds))),
        "drift": {
            "norm_ratio": score(*((0.89 if knn else 1.0) + 0.001 * seed for seed in range(seeds))),
            "mean_shift": score(*((0.35 if knn else 0.03) + 0.001 * seed for seed in range(seeds))),
            "expected_mean_shift": 0.031,
        },
        "biased": knn,
        "warning": "the noise law drifts: E|n|²/D = 0.89, mean shift 0.35 (0.031 expected)" if knn else None,
        "samples": {nfe: f"samples/{name.replace(':', '-')}-nfe{nfe}.png" for nfe in nfes},
    }


def _summary(
    seeds: int = 3, nfes: tuple[str, ...] = ("2", "5", "10", "50"), names: tuple[str, ...] = tuple(FINAL)
) -> Summary:
    return {
        "format": 1,
        "task": "flow",
        "command": f"immiscible compare flow --data digits --couplings {','.join(names)} --seeds {seeds}",
        "data": {"name": "digits", "count": 1797, "shape": [1, 8, 8]},
        "features": "classifier on digits (64 features, 98.1 % held-out accuracy)",
        "seeds": list(range(seeds)),
        "steps": 2000,
        "nfes": list(nfes),
        "config": {
            "batch_size": 256,
            "learning_rate": 0.001,
            "ema": 0.999,
            "cost_space": "centered",
            "sampler": "euler",
        },
        "environment": {"torch": "2.13.0", "python": "3.11.7", "processor": "a processor of eight cores", "threads": 2},
        "samples_per_score": 1797,
        "noise_floor": {"fid": 1.2},
        "couplings": {name: _coupling(name, seeds, list(nfes)) for name in names},
    }


@pytest.fixture(scope="session")
def make_summary() -> Callable[..., Summary]:
    """Makes a summary of some seeds, numbers of network calls and couplings."""
    return _summary


@pytest.fixture(scope="session")
def set_final() -> Callable[..., None]:
    """Overwrites a final score, by values per seed."""

    def overwrite(summary: Any, name: str, nfe: str, *values: float, of: str = "fid") -> None:
        summary["couplings"][name]["curves"][nfe][-1][of] = score(*values)

    return overwrite


@pytest.fixture(scope="session")
def write_samples() -> Callable[[Summary, Path], None]:
    """Writes the sample grids of a summary, so that its report can embed them."""

    def write(summary: Summary, directory: Path) -> None:
        (directory / "samples").mkdir(parents=True)
        pixels = numpy.random.default_rng(0).random((32, 32))
        for result in summary["couplings"].values():
            for relative in result["samples"].values():
                image.imsave(directory / relative, pixels, cmap="gray")

    return write
