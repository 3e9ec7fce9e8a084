"""What is read back of JSON files: whole and of the types that were written, or reported in one line.

A file may have been edited by hand, torn by a power cut, or be something else altogether. Imports no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from immiscible.config.values import Kind, Range, told

# The largest file that is read whole as JSON, in bytes; what is written here is a hundred times smaller.
LARGEST = 2**28


class Unfit(ValueError):
    """A file that does not hold what it must. The message says which, what must hold and what was found."""


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError: If there is no such file.
        Unfit: If it cannot be read, or is no JSON. NaN is none, nor are infinite numbers.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} must be a file, got none") from None
    except OSError as error:
        raise Unfit(f"{path} must be a readable file, got: {error.strerror}") from None
    if len(data) > LARGEST:
        raise Unfit(f"{path} must be JSON of at most {LARGEST >> 20} MiB, got a larger file")
    try:
        return parse_json(data)
    except ValueError as error:
        raise Unfit(f"{path} must be JSON, got: {error}") from None


def parse_json(data: bytes) -> Any:
    """What JSON in UTF-8 says.

    Raises:
        ValueError: If it is none, is nested too deeply, or holds numbers that are not finite.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 at byte {error.start}") from None
    if not text.strip():
        raise ValueError("nothing")
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("values nested too deeply") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(told(text))


def check_record(values: Any, known: Mapping[str, Kind], where: object, required: Iterable[str] = ()) -> dict[str, Any]:
    """Checks that a JSON object holds what its keys say.

    Arguments:
        values: What was read.
        known: What the keys hold; those that are not known may hold anything.
        where: The file, for the error.
        required: The keys that must be there.

    Returns:
        The object.

    Raises:
        Unfit: If it is no object, lacks a key, or one of its values is of another type or out of its range.
    """
    if not isinstance(values, dict):
        raise Unfit(f"{where} must hold an object, got {told(values)}")
    for key in required:
        if key not in values:
            raise Unfit(f"{where} must hold `{key}`, got none")
    for key, kind in known.items():
        if key in values and (complaint := kind.complaint(values[key])):
            raise Unfit(f"`{key}` in {where} {complaint}")
    return values


def check_list(values: Any, key: str, where: object, holds: Callable[[Any], bool], what: str) -> list[Any]:
    """Checks that a JSON value is a list whose items are as they must be.

    Raises:
        Unfit: If it is no list, or an item is not.
    """
    if not isinstance(values, list):
        raise Unfit(f"`{key}` in {where} must be a list of {what}, got {told(values)}")
    for value in values:
        if not holds(value):
            raise Unfit(f"`{key}` in {where} must be a list of {what}, got {told(value)} in it")
    return values


def number(name: str, whole: bool = False, least: float = -math.inf, most: float = math.inf) -> Kind:
    """What a key that holds a number holds."""
    return Kind(name, int if whole else float, marks=(Range(least, most),))
