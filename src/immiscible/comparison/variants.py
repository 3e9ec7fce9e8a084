"""The couplings of a comparison, each with the settings in which it departs from the others.

``knn:4[cost-space=raw]`` is the coupling ``knn:4`` trained with ``--cost-space raw``, whatever the comparison's own
setting; ``independent[noise-scale=0.97]`` is vanilla training, sampled from noise of that standard deviation.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from immiscible.comparison.schema import BASELINE
from immiscible.config.groups import DataFields, Factor, RunConfig, common
from immiscible.config.values import kind_of, quoted, told
from immiscible.couplings import parse_coupling
from immiscible.errors import InputError

NOISE_SCALE = "noise_scale"
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
        coupling: The spelling of its coupling.
        settings: The fields of a run that it changes.
        noise_scale: The standard deviation of the noise that its samples start from.
    """

    coupling: str
    settings: dict[str, Any] = field(default_factory=dict)
    noise_scale: float = 1.0

    @property
    def name(self) -> str:
        """Its spelling, which tells it from the others."""
        scale = {} if self.noise_scale == 1 else {NOISE_SCALE: self.noise_scale}
        return self.coupling + _bracket(self.settings | scale)

    @property
    def slug(self) -> str:
        """The name of its runs; contenders that are only sampled differently share them."""
        named = (self.coupling + _bracket(self.settings)).replace("@", "-at-").replace("%", "-percent")
        return re.sub(r"[^\w.]+", "-", named).strip("-")


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
    names = [variant.name for variant in variants]
    if len(set(names)) < len(names):
        raise InputError(f"--couplings must be different, got {told(text)}.")
    return sorted(variants, key=lambda variant: variant.name != BASELINE)


def _parse(word: str, owner: type[RunConfig]) -> Variant:
    match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]*)\])?", word)
    if match is None:
        raise InputError(f"--couplings must be couplings such as knn:4 or knn:4[cost-space=raw], got {quoted(word)}.")
    settings: dict[str, Any] = {}
    for setting in filter(None, (match[2] or "").split(",")):
        key, _, value = (part.strip() for part in setting.partition("="))
        name = key.replace("-", "_")
        if name in settings:
            raise InputError(f"{told(key)} in --couplings must stand once in its brackets, got {quoted(word)}.")
        settings[name] = value
    typed = {key: _typed(key, value, owner) for key, value in settings.items()}
    scale = typed.pop(NOISE_SCALE, 1.0)
    return Variant(str(parse_coupling(match[1])), typed, scale)


def _typed(key: str, value: str, owner: type[RunConfig]) -> Any:
    """A value in the type of the field."""
    own = {name: kind for name, kind in common(owner).items() if name not in SHARED}
    allowed = {NOISE_SCALE: kind_of(NOISE_SCALE, Factor)} | own
    if key not in allowed:
        names = ", ".join(name.replace("_", "-") for name in allowed)
        raise InputError(f"a setting in --couplings must be one of {names}, got {quoted(key.replace('_', '-'))}.")
    try:
        return allowed[key].read(value)
    except ValueError as error:
        raise InputError(f"{key.replace('_', '-')} in --couplings {error}.") from None
