"""The couplings of a comparison, each with the settings in which it departs from the others.

``knn:4[cost-space=raw]`` is the coupling ``knn:4`` trained with ``--cost-space raw``, whatever the comparison's own
setting; ``independent[noise-scale=0.97]`` is vanilla training, sampled from noise of that standard deviation, and
``independent[start=components:32@0.6]`` the same training, sampled from a time between noise and data on. What starts
with ``prior:`` is no coupling and has no runs: ``prior:components:32`` is the prior of the data by itself.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from immiscible.comparison.schema import BASELINE, PRIOR
from immiscible.config.groups import DataFields, Factor, RunConfig, StartFrom, common
from immiscible.config.values import kind_of, quoted, told
from immiscible.couplings import parse_coupling
from immiscible.errors import InputError
from immiscible.samplers.starting import AUTO, Starting, parse_prior, parse_start

# How samples are drawn, which changes no run.
NOISE_SCALE, START = "noise_scale", "start"
# Changed in one run alone, these would make it one of another comparison.
SHARED = {
    *(item.name for item in dataclasses.fields(DataFields)),
    *("flip", "shift", "steps", "device", "model"),
    *("history", "horizon", "executed", "angles", "mirror"),
}


@dataclass(frozen=True)
class Variant:
    """One contender.

    Attributes:
        coupling: The spelling of its coupling; of a prior, which has no runs, the spelling of that.
        settings: The fields of a run that it changes.
        noise_scale: The standard deviation of the noise that its samples start from.
        start: Where its samples start.
        prior: The principal components of a prior of the data; 0 where it is a coupling.
    """

    coupling: str
    settings: dict[str, Any] = field(default_factory=dict)
    noise_scale: float = 1.0
    start: Starting = AUTO
    prior: int = 0

    @property
    def name(self) -> str:
        """Its spelling, which tells it from the others."""
        scale = {} if self.noise_scale == 1 else {NOISE_SCALE: self.noise_scale}
        start = {} if self.start == AUTO else {START: self.start}
        return self.coupling + _bracket(self.settings | scale | start)

    @property
    def slug(self) -> str:
        """The name of its runs; contenders that are only sampled differently share them."""
        return _as_file(self.coupling + _bracket(self.settings))

    @property
    def picture(self) -> str:
        """The name of the pictures of its samples."""
        scaled = "" if self.noise_scale == 1 else f"-noise-{self.noise_scale}"
        return self.slug + scaled + ("" if self.start == AUTO else f"-start-{_as_file(str(self.start))}")


# The prior that networks are held to where none is among the contenders.
PRIOR_OF_ALL = Variant(f"{PRIOR}:components:32", prior=32)


def _as_file(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name.replace("@", "-at-").replace("%", "-percent")).strip("-")


def _bracket(settings: dict[str, Any]) -> str:
    said = ",".join(f"{key.replace('_', '-')}={value}" for key, value in settings.items())
    return f"[{said}]" if said else ""


def parse_variants(text: str, owner: type[RunConfig]) -> list[Variant]:
    """The contenders of a comparison, the baseline first.

    Arguments:
        text: Spellings separated by commas.
        owner: The class of the runs, whose settings may be changed.

    Raises:
        InputError: If a coupling or a setting is unknown, or a contender stands twice.
    """
    variants = [_parse(word.strip(), owner) for word in re.split(r",(?![^\[]*\])", text)]
    if all(variant.prior for variant in variants):
        raise InputError(f"--couplings must have a coupling to train, got {told(text)}.")
    names = [variant.name for variant in variants]
    if len(set(names)) < len(names):
        raise InputError(f"--couplings must be different, got {told(text)}.")
    return sorted(variants, key=lambda variant: variant.name != BASELINE)


def _parse(word: str, owner: type[RunConfig]) -> Variant:
    match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]*)\])?", word)
    if match is None:
        raise InputError(f"--couplings must be couplings such as knn:4 or knn:4[cost-space=raw], got {quoted(word)}.")
    kind, _, prior = match[1].partition(":")
    if kind == PRIOR:
        if match[2] is not None:
            raise InputError(f"a prior in --couplings must have no settings, got {quoted(word)}.")
        return Variant(match[1], prior=parse_prior(prior))
    settings: dict[str, Any] = {}
    for setting in filter(None, (match[2] or "").split(",")):
        key, _, value = (part.strip() for part in setting.partition("="))
        name = key.replace("-", "_")
        if name in settings:
            raise InputError(f"{told(key)} in --couplings must stand once in its brackets, got {quoted(word)}.")
        settings[name] = value
    typed = {key: _typed(key, value, owner) for key, value in settings.items()}
    scale, start = typed.pop(NOISE_SCALE, 1.0), parse_start(typed.pop(START, str(AUTO)))
    return Variant(str(parse_coupling(match[1])), typed, scale, start)


def _typed(key: str, value: str, owner: type[RunConfig]) -> Any:
    """A value in the type of the field."""
    own = {name: kind for name, kind in common(owner).items() if name not in SHARED}
    allowed = {NOISE_SCALE: kind_of(NOISE_SCALE, Factor), **own, START: kind_of(START, StartFrom)}
    if key not in allowed:
        names = ", ".join(name.replace("_", "-") for name in allowed)
        raise InputError(f"a setting in --couplings must be one of {names}, got {quoted(key.replace('_', '-'))}.")
    try:
        return allowed[key].read(value)
    except ValueError as error:
        raise InputError(f"{key.replace('_', '-')} in --couplings {error}.") from None
