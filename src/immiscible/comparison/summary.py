"""Gathers the measurements of a comparison: means, spreads, curves and steps to the baseline's quality."""

from __future__ import annotations

import dataclasses
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from immiscible.comparison.schema import (
    BASELINE,
    FORMAT,
    CouplingResult,
    Drift,
    Point,
    Score,
    StepsRatio,
    Summary,
)
from immiscible.config.comparison import Compare
from immiscible.couplings import describe
from immiscible.data import Images
from immiscible.evaluation.scores import Reference
from immiscible.samplers import AnySampler

Rows = Iterable[dict[str, Any]]


@dataclass(frozen=True)
class Trained:
    """One run of a comparison with its measurements: its summary, and a row per step and sampler."""

    coupling: str
    seed: int
    path: Path
    summary: dict[str, Any]
    rows: list[dict[str, Any]]


def summarise(
    config: Compare,
    command: str,
    data: Images,
    reference: Reference,
    samples: int,
    samplers: Sequence[AnySampler],
    trained: Sequence[Trained],
    pictures: dict[str, dict[str, str]],
) -> Summary:
    """The summary of a comparison, see :mod:`immiscible.comparison.schema`."""
    nfes = [str(sampler) for sampler in samplers]
    couplings = dict.fromkeys(run.coupling for run in trained)
    baseline = [run for run in trained if run.coupling == BASELINE]
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key != "out"}
    return Summary(
        format=FORMAT,
        task=config.task,
        command=command,
        data={"name": data.name, "count": len(data), "shape": list(data.shape)},
        features=reference.features.name,
        seeds=config.seed_list,
        steps=config.steps,
        nfes=nfes,
        config=settings,
        environment=environment(),
        samples_per_score=samples,
        scores_warning=reference.doubts(samples),
        noise_floor=None,
        couplings={
            name: _result(name, [run for run in trained if run.coupling == name], baseline, nfes, pictures[name])
            for name in couplings
        },
    )


def environment() -> dict[str, Any]:
    """What a figure of time depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": processor(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The name of the processor, as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _result(
    name: str, runs: Sequence[Trained], baseline: Sequence[Trained], nfes: list[str], pictures: dict[str, str]
) -> CouplingResult:
    drifts = [run.summary["drift"] for run in runs]
    warning = next((run.summary["warning"] for run in runs if run.summary["warning"]), None)
    described = describe(name.partition("[")[0])
    return CouplingResult(
        description={"moves": described.moves, "marginal": described.marginal, "cost": described.cost},
        curves={nfe: _curve(runs, nfe) for nfe in nfes},
        steps_to_baseline={nfe: steps_to_baseline(runs, baseline, nfe) for nfe in nfes} if baseline else {},
        pairing_ms=spread(run.summary["pairing_ms"] for run in runs),
        step_ms=spread(run.summary["step_ms"] for run in runs),
        overhead_percent=spread(run.summary["overhead_percent"] for run in runs),
        drift=Drift(
            norm_ratio=spread(drift["norm_ratio"] for drift in drifts),
            mean_shift=spread(drift["mean_shift"] for drift in drifts),
            expected_mean_shift=drifts[0]["expected_mean_shift"],
        ),
        biased=warning is not None,
        warning=warning,
        samples=pictures,
    )


def _curve(runs: Sequence[Trained], nfe: str) -> list[Point]:
    """The scores along the training, over the seeds, at the steps that all of them were scored at."""
    steps = sorted(set.intersection(*({row["step"] for row in run.rows} for run in runs)))
    points = []
    for step in steps:
        rows = [row for run in runs for row in run.rows if row["step"] == step and row["nfe"] == nfe]
        points.append(
            Point(
                step=step,
                nfe_mean=statistics.fmean(row["calls"] for row in rows),
                fid=spread(row["fid"] for row in rows),
                kid=spread(row["kid"] for row in rows),
                precision=spread(row["precision"] for row in rows),
                recall=spread(row["recall"] for row in rows),
            )
        )
    return points


def spread(values: Iterable[float]) -> Score:
    """Mean, sample standard deviation (None for a single value) and the values."""
    listed = list(values)
    std = statistics.stdev(listed) if len(listed) > 1 else None
    return Score(mean=statistics.fmean(listed), std=std, values=listed)


def steps_to_baseline(runs: Sequence[Trained], baseline: Sequence[Trained], nfe: str) -> StepsRatio:
    """Steps to the baseline's final FID over the baseline's own steps to it, seed by seed."""
    by_seed = {run.seed: _fids(run.rows, nfe) for run in baseline}
    values: list[float | None] = []
    for run in runs:
        goal = by_seed[run.seed][-1][1]
        own, its = first_step_at(_fids(run.rows, nfe), goal), first_step_at(by_seed[run.seed], goal)
        values.append(None if own is None or its is None else own / its)
    reached = [value for value in values if value is not None]
    return StepsRatio(ratio=spread(reached) if reached else None, reached=len(reached), of=len(values), values=values)


def _fids(rows: Rows, nfe: str) -> list[tuple[int, float]]:
    return sorted((row["step"], row["fid"]) for row in rows if row["nfe"] == nfe)


def first_step_at(curve: Sequence[tuple[int, float]], goal: float) -> float | None:
    """The step at which a curve of (step, FID) first comes down to a goal, linear between its points; None if never."""
    before: tuple[int, float] | None = None
    for step, value in curve:
        if value <= goal:
            if before is None or before[1] == value:
                return float(step)
            share = (before[1] - goal) / (before[1] - value)
            return before[0] + share * (step - before[0])
        before = (step, value)
    return None
