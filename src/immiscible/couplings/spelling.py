"""The spellings of couplings that the command line and the configurations use, parsed in this one place.

``str(coupling)`` gives the spelling back, so that ``coupling(str(c)) == c``.
"""

from __future__ import annotations

from immiscible.couplings.assignment import LinearAssignment
from immiscible.couplings.base import Coupling, Independent
from immiscible.couplings.mixed import Mixed
from immiscible.couplings.nearest import KNN
from immiscible.errors import InputError

ALLOWED = "independent, knn:K, knn:K:dot, assignment, assignment:BLOCK, each with an optional @PROBABILITY"


def coupling(spelling: str | Coupling) -> Coupling:
    """Reads the spelling of a coupling. What is a coupling already is returned as it is.

    Arguments:
        spelling: ``independent``, ``knn:8``, ``knn:2.5:dot``, ``assignment``, ``assignment:512``, or one of these
            followed by ``@0.5`` to couple in that share of the batches.

    Raises:
        InputError: If the spelling is unknown, or one of its numbers is out of range.

    Example:
        >>> coupling("assignment:512@0.5")
        Mixed(coupling=LinearAssignment(block=512), p=0.5)
    """
    if not isinstance(spelling, str):
        if callable(spelling):
            return spelling
        raise InputError(f"a coupling must be a spelling or a callable, got {type(spelling).__name__}: {ALLOWED}.")
    inner, at, probability = spelling.strip().partition("@")
    parsed = _plain(inner, spelling)
    return Mixed(parsed, _number(probability, spelling)) if at else parsed


def _plain(inner: str, spelling: str) -> Coupling:
    match inner.split(":"):
        case ["independent"]:
            return Independent()
        case ["knn", k]:
            return KNN(_number(k, spelling))
        case ["knn", k, "dot" | "l2" as score]:
            return KNN(_number(k, spelling), score)
        case ["assignment"]:
            return LinearAssignment()
        case ["assignment", block]:
            return LinearAssignment(int(_number(block, spelling, whole=True)))
        case _:
            raise _unknown(spelling)


def _number(text: str, spelling: str, whole: bool = False) -> float:
    try:
        value = int(text) if text.isdecimal() or whole else float(text)
    except ValueError:
        raise _unknown(spelling) from None
    return value


def _unknown(spelling: str) -> InputError:
    return InputError(f"unknown coupling {spelling!r}: allowed are {ALLOWED}.")
