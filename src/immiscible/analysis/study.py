"""What couplings do to some data: every measurement that needs no training, each an entry of one table.

A measurement is a function of a study and a coupling, and how its results are shown. One that cannot be made of a
coupling, or of such data, says why in an :class:`~immiscible.errors.InputError`, and is left out by that reason.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from torch import Tensor

from immiscible.analysis import showing
from immiscible.analysis.audit import audit
from immiscible.analysis.batches import Batches
from immiscible.analysis.centroids import CentroidSampling, centroids
from immiscible.analysis.cost import cost
from immiscible.analysis.leak import leak
from immiscible.analysis.miscibility import Curve, miscibility
from immiscible.analysis.reduction import Scale, Table, reductions, scaling
from immiscible.analysis.sampling import Progress
from immiscible.analysis.showing import Results, Shown
from immiscible.couplings import KNN, Coupling, InSpace, Mixed, parse_coupling
from immiscible.couplings.spaces import Fitted, parse_space
from immiscible.data.measured import Measured
from immiscible.errors import InputError

# Called with a measurement and a coupling; gives what is called with how much of that is done.
Stages = Callable[[str], Progress]
LEFT_OUT = "left_out"
# What reductions are measured at: as published, and beyond.
KS, SIZES = (2, 4, 8, 16, 64), (64, 128, 256, 512, 1024, 2048)
SCALES: tuple[Scale, ...] = ("unit", "range")


@dataclass(frozen=True, eq=False)
class Study:
    """What is measured.

    Attributes:
        data: The data.
        spellings: The couplings, separated by commas.
        cost_space: The spelling of the space that they rank in.
        batch_size: The data paired at once.
        points: The noisy points of a miscibility curve.
        seed: The seed of all that is drawn.
        within: Whether an assignment keeps noise within classes.
    """

    data: Measured
    spellings: str
    cost_space: str = "centered"
    batch_size: int = 256
    points: int = 512
    seed: int = 0
    within: bool = False

    @functools.cached_property
    def couplings(self) -> Mapping[str, Coupling]:
        """The couplings by their spellings, each in the space that it ranks in."""
        return couplings_of(self.spellings, self.cost_space, self.data)

    @property
    def labels(self) -> Tensor | None:
        """What the couplings are given to keep noise within."""
        return self.data.labels if self.within else None

    def batches(self, count: int = 32) -> Batches:
        """That many batches, as training would pair them."""
        return Batches(count, self.batch_size, self.labels, self.seed)


@dataclass(frozen=True)
class Step:
    """The reduction of the mean distance in per cent by a coupling, at a k or a number of data, and at a scale."""

    coupling: str
    batch_size: int
    at: int
    scale: str
    percent: float
    error: float


@dataclass(frozen=True)
class Reductions:
    """The reduction of the mean distance.

    Attributes:
        against: What is varied: ``k`` or ``batch_size``.
        steps: The reduction at each.
    """

    against: str
    steps: list[Step]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class HasResult(Protocol):
    """What a measurement gives."""

    def as_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Measurement:
    """One measurement.

    Attributes:
        name: What it is called in files and flags.
        title: What it is called on the page.
        measure: Measures a coupling, by its spelling.
        show: What the page shows of the results by coupling.
        headline: The result of one coupling in a few words.
    """

    name: str
    title: str
    measure: Callable[[Study, str, Progress], HasResult]
    show: Callable[[Results], Shown]
    headline: Callable[[Mapping[str, Any]], str]


def _miscibility(study: Study, name: str, progress: Progress) -> HasResult:
    curve = Curve(points=min(study.points, len(study.data)), batch_size=study.batch_size)
    coupling = study.couplings[name]
    return miscibility(study.data.x, coupling, curve, labels=study.labels, seed=study.seed, progress=progress)


def _audit(study: Study, name: str, progress: Progress) -> HasResult:
    return audit(study.data.x, study.couplings[name], study.batches(), progress=progress)


def _centroids(study: Study, name: str, progress: Progress) -> HasResult:
    sampling = CentroidSampling(batch_size=study.batch_size)
    return centroids(
        study.data.x, study.couplings[name], sampling, labels=study.labels, seed=study.seed, progress=progress
    )


def _reduction(study: Study, name: str, progress: Progress) -> HasResult:
    """At each scale, against k of KNN, and of others against the data paired at once."""
    coupling, found = parse_coupling(name), []
    # Of one that couples in some batches only it is that share, without the chance of the coins.
    share, coupling = (coupling.p, coupling.coupling) if isinstance(coupling, Mixed) else (1.0, coupling)
    steps = KS if isinstance(coupling, KNN) else [size for size in SIZES if size <= len(study.data)]
    for scale in SCALES:
        # The space is that of the data at this scale.
        shift, divisor = scaling(study.data.x, scale, study.seed)
        data = dataclasses.replace(study.data, x=(study.data.x - shift) / divisor)
        space = parse_space(study.cost_space)(data)
        for done, step in enumerate(steps):
            varied = dataclasses.replace(coupling, k=step) if isinstance(coupling, KNN) else coupling
            at = Table([study.batch_size if isinstance(coupling, KNN) else step], ["raw"])
            (measured,) = reductions(data.x, [_ranked(varied, space)], at, labels=study.labels, seed=study.seed)
            percent, error = share * measured.percent, share * measured.error
            found.append(Step(str(varied), measured.batch_size, step, scale, percent, error))
            progress(SCALES.index(scale) * len(steps) + done + 1, len(SCALES) * len(steps))
    return Reductions("k" if isinstance(coupling, KNN) else "batch_size", found)


def _leak(study: Study, name: str, progress: Progress) -> HasResult:
    """Of the observations, each brought to unit variance so that they count alike; else of the classes."""
    condition = study.data.standard_observations()
    condition = study.data.labels if condition is None else condition
    if condition is None:
        raise InputError("a leak needs labels or observations, and these data have neither.")
    return leak(study.data.x, condition, study.couplings[name], study.batches(), progress=progress)


def _cost(study: Study, name: str, progress: Progress) -> HasResult:
    return cost(study.data.x, study.couplings[name], study.batches(), progress=progress)


MEASUREMENTS = (
    Measurement(
        "miscibility", "How many data are mixed", _miscibility, showing.miscibility, showing.miscibility_headline
    ),
    Measurement("audit", "Is the noise still N(0, I)?", _audit, showing.audit, showing.audit_headline),
    Measurement("reduction", "How much nearer the noise is", _reduction, showing.reduction, showing.reduction_headline),
    Measurement(
        "centroids", "Centroid distance, as published", _centroids, showing.centroids, showing.centroids_headline
    ),
    Measurement("leak", "What the noise tells of the condition", _leak, showing.leak, showing.leak_headline),
    Measurement("cost", "What pairing costs", _cost, showing.cost, showing.cost_headline),
)


def couplings_of(spellings: str, cost_space: str, data: Measured) -> dict[str, Coupling]:
    """Couplings by their spellings, in the space that they are to rank in.

    Arguments:
        spellings: Spellings, separated by commas.
        cost_space: The spelling of a space.
        data: The data that it is fitted to.

    Raises:
        InputError: If one is unknown or stands twice, or the data have no such space.
    """
    parsed = parse_all(spellings)
    space = parse_space(cost_space)(data)
    return {name: _ranked(coupling, space) for name, coupling in parsed.items()}


def _ranked(coupling: Coupling, space: Fitted) -> Coupling:
    """A coupling that ranks in a space."""
    return coupling if space.trivial else InSpace(coupling, space)


def parse_all(spellings: str) -> dict[str, Coupling]:
    """Some couplings, separated by commas.

    Raises:
        InputError: If one is unknown or stands twice.
    """
    parsed = [parse_coupling(spelling) for spelling in spellings.split(",")]
    named = {str(coupling): coupling for coupling in parsed}
    if len(named) < len(parsed):
        raise InputError(f"--couplings must be different, got {spellings}.")
    return named


def chosen(names: str) -> tuple[Measurement, ...]:
    """Some measurements by their names, separated by commas; nothing for all.

    Raises:
        InputError: If one is unknown.
    """
    known = {measurement.name: measurement for measurement in MEASUREMENTS}
    wanted = [name.strip() for name in names.split(",")] if names else list(known)
    for name in wanted:
        if name not in known:
            raise InputError(f"--measure must be some of {', '.join(known)}, separated by commas, got {name!r}.")
    return tuple(known[name] for name in dict.fromkeys(wanted))


def measure(study: Study, wanted: Iterable[Measurement], stages: Stages) -> dict[str, dict[str, dict[str, Any]]]:
    """Makes measurements of all couplings.

    Arguments:
        study: What is measured.
        wanted: The measurements.
        stages: See :data:`Stages`.

    Returns:
        The results as JSON values, by measurement and coupling; of one that was left out its reason, as ``left_out``.
    """
    return {
        measurement.name: {
            name: _result(study, measurement, name, stages(f"{measurement.name}, {name}")) for name in study.couplings
        }
        for measurement in wanted
    }


def _result(study: Study, measurement: Measurement, name: str, progress: Progress) -> dict[str, Any]:
    try:
        result = measurement.measure(study, name, progress).as_dict()
    except InputError as error:
        return {LEFT_OUT: str(error)}
    # It knows the coupling in its space; readers know it by its spelling.
    return result | ({"coupling": name} if "coupling" in result else {})


def headlines(measurements: Mapping[str, Results]) -> list[str]:
    """All results in a line each."""
    said = {measurement.name: measurement for measurement in MEASUREMENTS}
    return [
        f"{name}, {coupling}: {result.get(LEFT_OUT) or said[name].headline(result)}"
        for name, results in measurements.items()
        for coupling, result in results.items()
    ]
