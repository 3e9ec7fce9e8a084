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
    Contender,
    CouplingResult,
    NoiseLaw,
    Point,
    Score,
    StepsRatio,
    Summary,
    as_written,
    final_score,
    metrics_of,
)
from immiscible.config.comparison import Comparison
from immiscible.config.metric import FID, IMAGE_METRICS, Metric
from immiscible.couplings import describe
from immiscible.data import Images

Rows = Iterable[dict[str, Any]]


@dataclass(frozen=True)
class Trained:
    """One run of a comparison with its measurements: its summary, and a row per step and sampler."""

    coupling: str
    seed: int
    path: Path
    summary: dict[str, Any]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Scoring:
    """How all runs of a comparison are scored.

    Attributes:
        data: What they are scored against.
        features: What the scores are computed in; empty where they need no features.
        samples: The number of samples behind each score.
        nfes: The numbers of network calls, as samplers spell them.
        warning: Why the scores tell little, where they do.
        metrics: What is measured, the main metric first.
        faults: How the features score known faults, where they are features of images.
    """

    data: Images
    features: str
    samples: int
    nfes: Sequence[str]
    warning: str | None = None
    metrics: Sequence[Metric] = IMAGE_METRICS
    faults: dict[str, Any] | None = None


def summarise(
    config: Comparison,
    command: str,
    scoring: Scoring,
    trained: Sequence[Trained],
    pictures: dict[str, dict[str, str]],
) -> Summary:
    """The summary of a comparison, see :mod:`immiscible.comparison.schema`.

    Arguments:
        config: The comparison.
        command: The command that repeats it.
        scoring: How its runs were scored.
        trained: Its runs with their measurements.
        pictures: For each coupling the paths of its sample grids, by number of network calls.
    """
    metrics: Any = as_written(scoring.metrics)
    faults: Any = {"faults": scoring.faults} if scoring.faults else {}
    couplings = dict.fromkeys(run.coupling for run in trained)
    baseline = [run for run in trained if run.coupling == BASELINE]
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key != "out"}
    return Summary(
        format=FORMAT,
        task=config.task,
        command=command,
        data={"name": scoring.data.name, "count": len(scoring.data), "shape": list(scoring.data.shape)},
        features=scoring.features,
        seeds=config.seed_list,
        steps=config.steps,
        nfes=list(scoring.nfes),
        config=settings,
        environment=environment(),
        samples_per_score=scoring.samples,
        **metrics,
        scores_warning=scoring.warning,
        **faults,
        noise_floor=None,
        couplings={
            name: _result([run for run in trained if run.coupling == name], baseline, scoring, pictures[name])
            for name in couplings
        },
    )


def add_prior(summary: Summary, name: str, row: dict[str, Any], pictures: dict[str, str]) -> None:
    """Adds a prior to the contenders: the same at every step and number of network calls, of which it makes none.

    Arguments:
        summary: The summary of a comparison.
        name: The spelling of the prior.
        row: Its scores.
        pictures: The paths of its sample grids, by number of network calls.
    """
    metrics, seeds = metrics_of(summary), len(summary["seeds"])
    scores = {
        key: Score(mean=value, std=None, values=[value] * seeds) for key, value in scores_of(summary, row).items()
    }
    first = next(iter(summary["couplings"].values()))
    curves: Any = {
        nfe: [{"step": point["step"], "nfe_mean": 0.0, **scores} for point in curve]
        for nfe, curve in first["curves"].items()
    }
    main = next(iter(metrics.values()))
    summary["couplings"][name] = Contender(
        description={"moves": "nothing", "marginal": "there is no noise", "cost": "no network and no training"},
        curves=curves,
        steps_to_baseline={nfe: _no_steps(summary, nfe, row[main.name], main) for nfe in curves},
        samples=pictures,
    )


def scores_of(summary: Summary, row: dict[str, Any]) -> dict[str, float]:
    """The scores in a row, by the names of the summary's metrics."""
    return {name: row[name] for name in metrics_of(summary)}


def _no_steps(summary: Summary, nfe: str, value: float, metric: Metric) -> StepsRatio:
    """What no training takes to the baseline's final score: no steps, where a score is as good."""
    if BASELINE not in summary["couplings"]:
        return StepsRatio(ratio=None, reached=0, of=len(summary["seeds"]), values=[None] * len(summary["seeds"]))
    goals = final_score(summary, BASELINE, nfe, metric)["values"]
    values = [0.0 if metric.gain(value, goal) >= 0 else None for goal in goals]
    return _ratio(values)


def _ratio(values: list[float | None]) -> StepsRatio:
    """Ratios of each seed, None for one that did not reach the score, with their mean."""
    reached = [value for value in values if value is not None]
    return StepsRatio(
        ratio=over_seeds(reached) if reached else None, reached=len(reached), of=len(values), values=values
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
    runs: Sequence[Trained], baseline: Sequence[Trained], scoring: Scoring, pictures: dict[str, str]
) -> CouplingResult:
    """All that was measured of one coupling, whose runs are given."""
    drifts = [run.summary["drift"] for run in runs]
    warning = next((run.summary["warning"] for run in runs if run.summary["warning"]), None)
    described = describe(runs[0].coupling.partition("[")[0])
    main, nfes = scoring.metrics[0], scoring.nfes
    return CouplingResult(
        description={"moves": described.moves, "marginal": described.marginal, "cost": described.cost},
        curves={nfe: _curve(runs, nfe, scoring.metrics) for nfe in nfes},
        steps_to_baseline={nfe: steps_to_baseline(runs, baseline, nfe, main) for nfe in nfes} if baseline else {},
        pairing_ms=over_seeds(run.summary["pairing_ms"] for run in runs),
        step_ms=over_seeds(run.summary["step_ms"] for run in runs),
        overhead_percent=over_seeds(run.summary["overhead_percent"] for run in runs),
        drift=NoiseLaw(
            norm_ratio=over_seeds(drift["norm_ratio"] for drift in drifts),
            mean_shift=over_seeds(drift["mean_shift"] for drift in drifts),
            expected_mean_shift=drifts[0]["expected_mean_shift"],
        ),
        biased=warning is not None,
        warning=warning,
        samples=pictures,
    )


def _curve(runs: Sequence[Trained], nfe: str, metrics: Sequence[Metric]) -> list[Point]:
    """The scores along the training, over the seeds, at the steps that all of them were scored at."""
    steps = sorted(set.intersection(*({row["step"] for row in run.rows} for run in runs)))
    points: list[Any] = []
    for step in steps:
        rows = [row for run in runs for row in run.rows if row["step"] == step and row["nfe"] == nfe]
        scores = {metric.name: over_seeds(row[metric.name] for row in rows) for metric in metrics}
        points.append({"step": step, "nfe_mean": statistics.fmean(row["calls"] for row in rows), **scores})
    return points


def over_seeds(values: Iterable[float]) -> Score:
    """Mean, sample standard deviation (None for a single value) and the values."""
    listed = list(values)
    std = statistics.stdev(listed) if len(listed) > 1 else None
    return Score(mean=statistics.fmean(listed), std=std, values=listed)


def steps_to_baseline(
    runs: Sequence[Trained], baseline: Sequence[Trained], nfe: str, metric: Metric = FID
) -> StepsRatio:
    """Steps to the baseline's final score over the baseline's own steps to it, seed by seed.

    Arguments:
        runs: The runs of one coupling.
        baseline: The runs of the baseline, one for each of their seeds.
        nfe: The number of network calls.
        metric: Which score.
    """
    curves = {run.seed: _scores(run.rows, nfe, metric) for run in baseline}
    values: list[float | None] = []
    for run in runs:
        goal = curves[run.seed][-1][1]
        ours = first_step_at(_scores(run.rows, nfe, metric), goal, metric)
        theirs = first_step_at(curves[run.seed], goal, metric)
        values.append(None if ours is None or theirs is None else ours / theirs)
    return _ratio(values)


def _scores(rows: Rows, nfe: str, metric: Metric) -> list[tuple[int, float]]:
    return sorted((row["step"], row[metric.name]) for row in rows if row["nfe"] == nfe)


def first_step_at(curve: Sequence[tuple[int, float]], goal: float, metric: Metric = FID) -> float | None:
    """The step at which a curve is first as good as a goal, linear between its points; None if it never is.

    Arguments:
        curve: Pairs of a step and a score.
        goal: The score to reach.
        metric: Which score, which says whether it has to come down or to rise.
    """
    before: tuple[int, float] | None = None
    for step, value in curve:
        if metric.gain(value, goal) >= 0:
            if before is None or before[1] == value:
                return float(step)
            share = (before[1] - goal) / (before[1] - value)
            return before[0] + share * (step - before[0])
        before = (step, value)
    return None
