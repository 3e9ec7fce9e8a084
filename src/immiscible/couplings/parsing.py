"""The spellings of couplings that the command line and the configurations use, parsed in this one place.

``str(coupling)`` gives the spelling back, so that ``parse_coupling(str(c)) == c``.
"""

from __future__ import annotations

import re
from typing import Any

from immiscible.couplings.assignment import LinearAssignment
from immiscible.couplings.cells import Cells
from immiscible.couplings.components import Components
from immiscible.couplings.knn import KNN
from immiscible.couplings.mixed import Mixed
from immiscible.couplings.modes import Mixture
from immiscible.couplings.protocol import Coupling, Independent
from immiscible.couplings.reservoir import Reservoir
from immiscible.couplings.solvers.select import NAMES as SOLVERS
from immiscible.errors import InputError, shown

ALLOWED = (
    "independent, knn:K, knn:K:dot, reservoir:SIZE, cells:COUNT, components:RANK, mixture:COUNT, assignment, "
    "assignment:BLOCK, assignment:worst, assignment:auction (sinkhorn, slabs, auto, global, entropic:TEMPERATURE), "
    "any @PROBABILITY"
)
# The places of a spelling for the arguments of a coupling.
PLACES = {
    "k": "K",
    "block": "BLOCK",
    "p": "PROBABILITY",
    "temperature": "TEMPERATURE",
    "score": "the score",
    "size": "SIZE",
    "age": "AGE",
    "count": "COUNT",
    "rank": "RANK",
    "strength": "STRENGTH",
}


def parse_coupling(spelling: str | Coupling) -> Coupling:
    """Reads the spelling of a coupling. What is a coupling already is returned as it is.

    Arguments:
        spelling: ``independent``, ``knn:8``, ``knn:2.5:dot``, ``assignment``, ``assignment:512``,
            ``assignment:slabs:global``, ``reservoir:256``, ``cells:256:16``, ``components:16:0.8``,
            ``mixture:10:16``, or one of these followed by ``@0.5`` to couple in that share of the batches.

    Raises:
        InputError: If the spelling is unknown, or one of its numbers is out of range.

    Example:
        >>> parse_coupling("assignment:512@0.5").coupling.block
        512
    """
    if not isinstance(spelling, str):
        if callable(spelling):
            return spelling
        raise InputError(f"a coupling must be a spelling or a callable, got {type(spelling).__name__}: {ALLOWED}.")
    inner, at, probability = spelling.strip().partition("@")
    try:
        parsed = _plain(inner, spelling)
        return Mixed(parsed, _number(probability, spelling)) if at else parsed
    except InputError as error:
        raise _named(error, spelling) from None


def _plain(inner: str, spelling: str) -> Coupling:
    match inner.split(":"):
        case ["independent"]:
            return Independent()
        case ["knn", k]:
            return KNN(_number(k, spelling))
        case ["knn", k, "dot" | "l2" as score]:
            return KNN(_number(k, spelling), score)
        case ["assignment", *settings]:
            return _assignment(settings, spelling)
        case ["reservoir", size]:
            return Reservoir(int(_number(size, spelling, whole=True)))
        case ["reservoir", size, age]:
            return Reservoir(int(_number(size, spelling, whole=True)), _number(age, spelling))
        case ["cells", count]:
            return Cells(_whole(count, spelling))
        case ["cells", count, rank]:
            return Cells(_whole(count, spelling), _whole(rank, spelling))
        case ["components", rank]:
            return Components(_whole(rank, spelling))
        case ["components", rank, strength]:
            return Components(_whole(rank, spelling), _number(strength, spelling))
        case ["mixture", count]:
            return Mixture(_whole(count, spelling))
        case ["mixture", count, rank]:
            return Mixture(_whole(count, spelling), _whole(rank, spelling))
        case _:
            raise _unknown(spelling)


def _assignment(settings: list[str], spelling: str) -> LinearAssignment:
    """An assignment from its settings, each at most once and in any order: see ``ALLOWED``."""
    values: dict[str, Any] = {}
    words = iter(settings)
    for setting in words:
        if setting in SOLVERS:
            name, value = "solver", setting
        elif setting == "global":
            name, value = "pool", setting
        elif setting in ("worst", "flipped"):
            # Noise assigned with its sign turned is as far apart as can be.
            name, value = "goal", "worst"
        elif setting == "entropic":
            name, value = "temperature", _number(next(words, ""), spelling)
        else:
            name, value = "block", int(_number(setting, spelling, whole=True))
        if name in values:
            raise _unknown(spelling)
        values[name] = value
    return LinearAssignment(**values)


def _number(text: str, spelling: str, whole: bool = False) -> float:
    try:
        value = int(text) if text.isdecimal() or whole else float(text)
    except ValueError:
        raise _unknown(spelling) from None
    return value


def _whole(text: str, spelling: str) -> int:
    return int(_number(text, spelling, whole=True))


def _unknown(spelling: str) -> InputError:
    return InputError(f"unknown coupling {shown(repr(spelling), 100)}: allowed are {ALLOWED}.")


def _named(error: InputError, spelling: str) -> InputError:
    """What a coupling says of its arguments, in the words that the spellings have for them."""
    said = re.sub(r"`(\w+)`", lambda name: PLACES.get(name[1], name[0]), str(error))
    return error if said.startswith("unknown") else InputError(f"coupling {shown(repr(spelling), 100)}: {said}")
