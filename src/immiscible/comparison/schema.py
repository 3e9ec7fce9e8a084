"""The summary of a comparison, as it stands in ``summary.json``: what is measured, and under which names.

Whoever trains writes it, whoever presents reads it, and nothing else passes between the two. Every figure is a
:class:`Score`: the values of all seeds, their mean, and their standard deviation where there is more than one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NotRequired, TypedDict

from immiscible.errors import InputError

FORMAT = 1
BASELINE = "independent"

ScoreName = Literal["fid", "kid", "precision", "recall"]
SCORE_NAMES: tuple[ScoreName, ...] = ("fid", "kid", "precision", "recall")
SCORE_TITLES: dict[ScoreName, str] = {"fid": "FID", "kid": "KID", "precision": "Precision", "recall": "Recall"}
LOWER_IS_BETTER: dict[ScoreName, bool] = {"fid": True, "kid": True, "precision": False, "recall": False}


class Score(TypedDict):
    """A figure over the seeds: ``std`` is the sample standard deviation, None with a single seed."""

    mean: float
    std: float | None
    values: list[float]


class Point(TypedDict):
    """The scores of one coupling at one training step and one number of network calls."""

    step: int
    nfe_mean: float
    fid: Score
    kid: Score
    precision: Score
    recall: Score


class StepsRatio(TypedDict):
    """Steps to the baseline's final FID over the baseline's own steps to it; None where it was not reached.

    ``ratio`` is over the seeds that reached it, ``values`` has one entry per seed.
    """

    ratio: Score | None
    reached: int
    of: int
    values: list[float | None]


class Drift(TypedDict):
    r"""How far the coupled noise is from N(0, I).

    ``norm_ratio`` is :math:`E|n|^2/D` (1 = exact), ``mean_shift`` the norm of the mean noise over :math:`\sqrt{D}`, and
    ``expected_mean_shift`` what that would be for as many draws of exact noise.
    """

    norm_ratio: Score
    mean_shift: Score
    expected_mean_shift: float


class Description(TypedDict):
    """What a coupling moves, whether the law of the noise stays exact, and what it costs, in plain words."""

    moves: str
    marginal: str
    cost: str


class CouplingResult(TypedDict):
    """All that was measured of one coupling.

    ``overhead_percent`` is against a step without pairing, ``biased`` says that the noise drifts, ``warning`` how, and
    ``samples`` are paths of PNG grids of the first seed, relative to the report's directory.
    """

    description: Description
    curves: dict[str, list[Point]]
    steps_to_baseline: dict[str, StepsRatio]
    pairing_ms: Score
    step_ms: Score
    overhead_percent: Score
    drift: Drift
    biased: bool
    warning: str | None
    samples: dict[str, str]


class Data(TypedDict):
    """The data: its name, the number of items, and the shape of one."""

    name: str
    count: int
    shape: list[int]


class Summary(TypedDict):
    """A whole comparison. The keys of ``curves``, ``samples`` and ``steps_to_baseline`` are the labels in ``nfes``.

    ``scores_warning`` says why the scores tell little, where they are of few images; ``left_out`` why couplings that
    were asked for are not there; ``gaps`` which points of the curves are missing.
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
    scores_warning: NotRequired[str | None]
    noise_floor: dict[str, float] | None
    couplings: dict[str, CouplingResult]
    left_out: NotRequired[dict[str, str]]
    gaps: NotRequired[list[str]]


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
    for name, result in summary["couplings"].items():
        for nfe in summary["nfes"]:
            points = result["curves"].get(nfe)
            counts = {len(point[score]["values"]) for point in points or () for score in SCORE_NAMES}
            if counts != {len(summary["seeds"])}:
                raise InputError(f"the summary must hold the scores of {name!r} at nfe {nfe!r} for every seed.")
    for place in _not_finite(summary, "the summary"):
        raise InputError(f"all figures of a comparison must be finite, got NaN or infinity in {place}.")


def _not_finite(value: Any, place: str) -> Iterator[str]:
    """Where there are numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _not_finite(item, f"{place}, {key}")


def final(summary: Summary, coupling: str, nfe: str) -> Point:
    """The scores at the last training step."""
    return summary["couplings"][coupling]["curves"][nfe][-1]


def others(summary: Summary) -> list[str]:
    """The couplings that are compared with the baseline, or all of them where there is none."""
    return [name for name in summary["couplings"] if name != BASELINE]
