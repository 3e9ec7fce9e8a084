"""What couplings do to some data: every measurement that needs no training, each an entry of one table.

A measurement is a function of a study and a coupling, and how its results are shown. One that cannot be made of a
coupling, or of such data, says why in an :class:`~immiscible.errors.InputError`, and is left out by that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from immiscible.analysis import showing
from immiscible.analysis.audit import audit
from immiscible.analysis.batches import Batches
from immiscible.analysis.miscibility import Curve, miscibility
from immiscible.analysis.sampling import Progress
from immiscible.analysis.showing import Results, Shown
from immiscible.couplings import Coupling, InSpace, parse_coupling
from immiscible.couplings.spaces import parse_space
from immiscible.data.measured import Measured
from immiscible.errors import InputError

# Called with a measurement and a coupling; gives what is called with how much of that is done.
Stages = Callable[[str], Progress]
LEFT_OUT = "left_out"


@dataclass(frozen=True, eq=False)
class Study:
    """What is measured.

    Attributes:
        data: The data.
        couplings: The couplings by their spellings, each in the space that it ranks in.
        batch_size: The data paired at once.
        points: The noisy points of a miscibility curve.
        seed: The seed of all that is drawn.
        within: Whether an assignment keeps noise within classes.
    """

    data: Measured
    couplings: Mapping[str, Coupling]
    batch_size: int = 256
    points: int = 512
    seed: int = 0
    within: bool = False

    @property
    def labels(self) -> Tensor | None:
        """What the couplings are given to keep noise within."""
        return self.data.labels if self.within else None

    def batches(self, count: int = 32) -> Batches:
        """That many batches, as training would pair them."""
        return Batches(count, self.batch_size, self.labels, self.seed)


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


MEASUREMENTS = (
    Measurement(
        "miscibility", "How many data are mixed", _miscibility, showing.miscibility, showing.miscibility_headline
    ),
    Measurement("audit", "Is the noise still N(0, I)?", _audit, showing.audit, showing.audit_headline),
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
    return {name: coupling if space.trivial else InSpace(coupling, space) for name, coupling in parsed.items()}


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
