"""The summary of a comparison, as it stands in ``summary.json``: what is measured, and under which names.

Whoever trains writes it, whoever presents reads it, and nothing else passes between the two. Every figure is a
:class:`Score`: the values of all seeds, their mean, and their standard deviation where there is more than one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NotRequired, TypedDict, cast, get_args

from immiscible.config.metric import IMAGE_METRICS, Better, Metric, by_name
from immiscible.errors import InputError

FORMAT = 1
BASELINE = "independent"
# What starts so is no coupling: the prior of the data by itself, without a network.
PRIOR = "prior"


class Score(TypedDict):
    """A figure over the seeds: ``std`` is the sample standard deviation, None with a single seed or without any."""

    mean: float
    std: float | None
    values: list[float]


class Point(TypedDict):
    """The scores of one coupling at one training step and one number of network calls.

    Beside the keys here there is a :class:`Score` under the name of each metric, see :func:`score_at`.
    """

    step: int
    nfe_mean: float


class StepsRatio(TypedDict):
    """Steps to the baseline's final score over the baseline's own steps to it; None where it was not reached.

    The score is that of the main metric. ``ratio`` is over the seeds that reached it, ``values`` has one per seed.
    """

    ratio: Score | None
    reached: int
    of: int
    values: list[float | None]


class NoiseLaw(TypedDict):
    r"""How far the coupled noise is from N(0, I).

    ``norm_ratio`` is :math:`E|n|^2/D` (1 = exact), ``mean_shift`` the norm of the mean noise over :math:`\sqrt{D}`, and
    ``expected_mean_shift`` what that would be for as many draws of exact noise.
    """

    norm_ratio: Score
    mean_shift: Score
    expected_mean_shift: float


class CouplingFacts(TypedDict):
    """What a coupling moves, whether the law of the noise stays exact, and what it costs, in plain words."""

    moves: str
    marginal: str
    cost: str


class Contender(TypedDict):
    """What was measured of a coupling or of a prior of the data, which takes no training.

    ``samples`` are paths of PNG grids of the first seed, relative to the report's directory.
    """

    description: CouplingFacts
    curves: dict[str, list[Point]]
    steps_to_baseline: dict[str, StepsRatio]
    samples: dict[str, str]


class CouplingResult(Contender):
    """All that was measured of one coupling.

    ``overhead_percent`` is against a step without pairing, ``biased`` says that the noise drifts, and ``warning`` how.
    """

    pairing_ms: Score
    step_ms: Score
    overhead_percent: Score
    drift: NoiseLaw
    biased: bool
    warning: str | None


class PriorScores(TypedDict):
    """What a prior of the data scores without any network: its spelling, and a figure for each metric."""

    name: str
    scores: dict[str, float]


class Data(TypedDict):
    """The data: its name, the number of items, and the shape of one."""

    name: str
    count: int
    shape: list[int]


class Summary(TypedDict):
    """A whole comparison. The keys of ``curves``, ``samples`` and ``steps_to_baseline`` are the labels in ``nfes``.

    ``metrics`` are the fields of each :class:`~immiscible.config.metric.Metric`, the one that curves and verdicts are
    about first; those of images where it is absent. ``features`` may be empty where the scores need none.
    ``scores_warning`` says why the scores tell little, where they are of few samples, ``faults`` how the features score
    known faults (:func:`immiscible.evaluation.ladder.faults_seen`); ``left_out`` why couplings that were asked for are
    not there; ``gaps`` which points of the curves are missing. ``prior`` is what the networks are held to, where there
    is a prior of such data.
    """

    format: int
    task: str
    command: str
    data: Data
    features: str
    seeds: list[int]
    steps: int
    nfes: list[str]
    config: dict[str, Any]
    environment: dict[str, Any]
    samples_per_score: int
    metrics: NotRequired[list[dict[str, str]]]
    scores_warning: NotRequired[str | None]
    faults: NotRequired[dict[str, Any]]
    noise_floor: dict[str, float] | None
    couplings: dict[str, Contender]
    left_out: NotRequired[dict[str, str]]
    gaps: NotRequired[list[str]]
    prior: NotRequired[PriorScores]


def check(summary: Summary) -> None:
    """Checks that a summary is one that this version can present.

    Raises:
        InputError: If the format is another one, scores of a coupling are missing, or a figure is not finite.
    """
    if summary.get("format") != FORMAT:
        raise InputError(
            f"the summary must have format {FORMAT}, got {summary.get('format')!r}: run the comparison again with this "
            "version, finished runs are reused."
        )
    if not summary["couplings"] or not summary["nfes"] or not summary["seeds"]:
        raise InputError("the summary must have at least one coupling, one number of network calls and one seed.")
    metrics = metrics_of(summary).values()
    for name, result in summary["couplings"].items():
        for nfe in summary["nfes"]:
            points = result["curves"].get(nfe)
            counts = {_seeds_of(point, metric) for point in points or () for metric in metrics}
            if counts != {len(summary["seeds"])}:
                raise InputError(f"the summary must hold the scores of {name!r} at nfe {nfe!r} for every seed.")
    for place in _not_finite(summary, "the summary"):
        raise InputError(f"all figures of a comparison must be finite, got NaN or infinity in {place}.")


def _seeds_of(point: Point, metric: Metric) -> int:
    return len(score_at(point, metric)["values"]) if metric.name in point else 0


def _not_finite(value: Any, place: str) -> Iterator[str]:
    """Where there are numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _not_finite(item, f"{place}, {key}")


def metrics_of(summary: Summary) -> dict[str, Metric]:
    """The metrics of a comparison by name, the one that curves and verdicts are about first.

    Raises:
        InputError: If they are not as :func:`as_written` gives them.
    """
    if "metrics" not in summary:
        return by_name(IMAGE_METRICS)
    try:
        metrics = by_name(Metric(**fields) for fields in cast(list[dict[str, Any]], summary["metrics"]))
    except TypeError as error:
        raise InputError(f"a metric of the summary must have a name, a title and a direction, got: {error}.") from None
    for fields in map(asdict, metrics.values()):
        known = fields["better"] in get_args(Better) and fields["name"] not in Point.__annotations__
        if not known or not all(isinstance(value, str) for value in fields.values()):
            raise InputError(f"a metric of the summary must be better if lower or higher, got {fields}.")
    if not metrics:
        raise InputError("the summary must have at least one metric.")
    return metrics


def as_written(metrics: Sequence[Metric]) -> dict[str, Any]:
    """The part of a summary that says what its metrics are: nothing for those of images, which need no saying."""
    return {} if tuple(metrics) == IMAGE_METRICS else {"metrics": [asdict(metric) for metric in metrics]}


def main_metric(summary: Summary) -> Metric:
    """The metric that curves and verdicts are about."""
    return next(iter(metrics_of(summary).values()))


def score_at(point: Point, metric: Metric) -> Score:
    """A score at one point of a curve."""
    return cast(dict[str, Any], point)[metric.name]


def final(summary: Summary, coupling: str, nfe: str) -> Point:
    """The scores at the last training step.

    Arguments:
        summary: The summary of a comparison.
        coupling: The name of a coupling.
        nfe: The number of network calls, one of the summary's.
    """
    return summary["couplings"][coupling]["curves"][nfe][-1]


def final_score(summary: Summary, coupling: str, nfe: str, metric: Metric) -> Score:
    """One score at the last training step.

    Arguments:
        summary: The summary of a comparison.
        coupling: The name of a coupling.
        nfe: The number of network calls, one of the summary's.
        metric: Which score.
    """
    return score_at(final(summary, coupling, nfe), metric)


def trained(summary: Summary) -> dict[str, CouplingResult]:
    """All that was trained: the couplings without the priors."""
    found = {name: result for name, result in summary["couplings"].items() if not is_prior(name)}
    return cast(dict[str, CouplingResult], found)


def is_prior(name: str) -> bool:
    """Whether a contender is a prior of the data, which has no network."""
    return name.startswith(f"{PRIOR}:")


def others(summary: Summary) -> list[str]:
    """The couplings that are compared with the baseline, or all of them where there is none."""
    return [name for name in summary["couplings"] if name != BASELINE]
