"""What the value of a field may be: declared beside it, and checked alike for flags, brackets, files and callers.

A field is annotated with what it must hold::

    steps: Annotated[int, Range(1, 10**9, "each is written down")] = 2000
    lora_rank: Annotated[int, Range(1, 4096), Needs("mode", "lora")] = 16

:func:`kinds` reads the declarations, :func:`check` holds an instance to them. Numbers are finite wherever nothing else
is said. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import re
import types
import typing
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

from immiscible.errors import InputError, shown

# How much of a value is repeated in an error.
SHOWN = 100


@dataclass(frozen=True)
class Range:
    """The numbers from ``least`` to ``most``.

    Attributes:
        least: The least number allowed.
        most: The largest.
        why: What speaks against more, for the error.
        excluded: An end that is not allowed itself.
    """

    least: float = -math.inf
    most: float = math.inf
    why: str = ""
    excluded: float | None = None

    def complaint(self, value: float) -> str:
        """What must hold instead of a value, or nothing if it is in the range."""
        if self.least <= value <= self.most and value != self.excluded:
            return ""
        if isinstance(value, float) and not math.isfinite(value):
            return f"must be a finite number, got {value}"
        if (self.least, self.most) == (0, 1):
            left, right = "(" if self.excluded == 0 else "[", ")" if self.excluded == 1 else "]"
            return f"must be in {left}0, 1{right}, got {value}"
        if value > self.least:
            return f"must be at most {_number(self.most)}, got {told(value)}" + (f": {self.why}" if self.why else "")
        if value < 0 and self.least == 0:
            return f"must be zero or more, got {value}"
        if value <= 0 and (self.least == 1 or not isinstance(self.least, int)):
            return f"must be positive, got {value}"
        return f"must be at least {_number(self.least)}, got {value}"


@dataclass(frozen=True)
class Text:
    """Texts that match a pattern as a whole.

    Attributes:
        pattern: The regular expression.
        what: What it stands for, in words.
    """

    pattern: str
    what: str

    def complaint(self, value: str) -> str:
        """What must hold instead of a value, or nothing if it matches."""
        return "" if re.fullmatch(self.pattern, value) else f"must be {self.what}, got {quoted(value)}"


@dataclass(frozen=True)
class ReadBy:
    """Texts that a parser reads, which may need torch and is imported once there is a text that is not the default.

    Attributes:
        parser: The parser as ``module:function``. It raises a ValueError that says what must hold and what was given.
    """

    parser: str

    def complaint(self, value: str) -> str:
        """What must hold instead of a value, or nothing if it is read."""
        module, _, name = self.parser.partition(":")
        try:
            getattr(importlib.import_module(module), name)(value)
        except ValueError as error:
            return str(error)
        return ""


@dataclass(frozen=True)
class ShareOf:
    """A whole number that may be given as a share of another field, such as ``25%``: the field then holds the number.

    Attributes:
        field: The other field.
    """

    field: str


@dataclass(frozen=True)
class There:
    """Names of what is there already, which may have been given any name, unlike what is to be written."""


@dataclass(frozen=True)
class Operational:
    """A field that may differ when a run is resumed: where it lies, what it runs on, what it prints.

    Data and models are among them, since they count by their fingerprints, not by their spelling.
    """


@dataclass(frozen=True)
class Word:
    """A field that is a word by itself on the command line, without a flag; errors call it by ``metavar``."""

    metavar: str


class Needs:
    """A flag that has an effect only where another one has certain values; none named are all that are not empty."""

    def __init__(self, field: str, *values: Any) -> None:
        self.field, self.values = field, values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Needs) and (self.field, self.values) == (other.field, other.values)

    def __hash__(self) -> int:
        return hash((self.field, self.values))

    def holds(self, value: Any) -> bool:
        """Whether the other flag has such a value."""
        return value in self.values if self.values else bool(value)

    def complaint(self, value: Any) -> str:
        """What the flag needs, and what the other one is."""
        wanted = " ".join([flag_of(self.field), " or ".join(map(str, self.values))]).strip()
        return f"needs {wanted}, got {value if self.values else 'it without'}: it changes nothing here"


@dataclass(frozen=True)
class Kind:
    """What a field holds.

    Attributes:
        name: Its name.
        type: The type of its values.
        choices: The values, where there are few.
        optional: Whether it may also be None.
        marks: All that it is annotated with.
        default: Its default, or ``dataclasses.MISSING``.
        many: Whether it is a tuple of such values.
    """

    name: str
    type: type
    choices: tuple[Any, ...] = ()
    optional: bool = False
    marks: tuple[Any, ...] = ()
    default: Any = None
    many: bool = False

    @property
    def positional(self) -> bool:
        """Whether it is a word by itself on the command line, without a flag."""
        return bool(self.metavar)

    @property
    def metavar(self) -> str:
        """What help and errors call a word without a flag."""
        return next((mark.metavar for mark in self.marks if isinstance(mark, Word)), "")

    @property
    def needs(self) -> Needs | None:
        """The flag without which this one has no effect."""
        return next((mark for mark in self.marks if isinstance(mark, Needs)), None)

    @property
    def share_of(self) -> ShareOf | None:
        """The field that it may be given as a share of."""
        return next((mark for mark in self.marks if isinstance(mark, ShareOf)), None)

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING

    @property
    def operational(self) -> bool:
        """Whether it may differ when a run is resumed."""
        return any(isinstance(mark, Operational) for mark in self.marks)

    def read(self, text: str) -> Any:
        """A value from its spelling. A share stays one, until the field that it is a share of is known.

        Raises:
            ValueError: What must hold, and what was given.
        """
        if self.optional and text == "None":
            return None
        if self.share_of and text.endswith("%"):
            _share(text)
            return text
        if self.type in (int, float):
            hint = f": a share of {flag_of(self.share_of.field)} is written as 25%" if self.share_of else ""
            value = _parsed(self.type, text, hint)
        elif self.type is Path:
            if not text:
                raise ValueError("must be a path, got nothing")
            value = Path(text)
        elif self.type is bool:
            value = {"true": True, "false": False}.get(text, text)
        else:
            value = text
        if complaint := self.complaint(value):
            raise ValueError(complaint)
        return value

    def complaint(self, value: Any) -> str:
        """What must hold instead of a value, or nothing if it is one of this kind."""
        if self.many and isinstance(value, tuple):
            return next(filter(None, map(self.complaint, value)), "")
        if value is None and self.optional:
            return ""
        if self.choices:
            allowed = f"must be one of {', '.join(map(str, self.choices))}"
            # In a list of strings a number is not found, and nothing that cannot be compared either.
            return "" if isinstance(value, str) and value in self.choices else f"{allowed}, got {told(value)}"
        if not self._is_of_type(value):
            return f"must be {NAMES[self.type]}, got {told(value)}"
        if isinstance(value, str | Path) and (bad := self._unwritable(str(value))):
            return f"must be text without {bad}, got {quoted(value)}"
        if isinstance(value, float) and not math.isfinite(value):
            return f"must be a finite number, got {value}"
        if value == self.default:
            return ""
        limits: Any = [mark for mark in self.marks if isinstance(mark, Range | Text | ReadBy)]
        return next(filter(None, (cast(Any, limit).complaint(value) for limit in limits)), "")

    def _is_of_type(self, value: Any) -> bool:
        if self.type is float:
            return isinstance(value, int | float) and not isinstance(value, bool)
        return isinstance(value, self.type) and (self.type is bool or not isinstance(value, bool))

    def _unwritable(self, text: str) -> str:
        """What no name or text that is to be written may hold."""
        if "\0" in text:
            return "the character NUL"
        if any(isinstance(mark, There) for mark in self.marks):
            return ""
        found = {unicodedata.category(character) for character in text}
        return "control characters" if "Cc" in found else "characters that are none" if "Cs" in found else ""


NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
}


@functools.cache
def kinds(owner: type) -> Mapping[str, Kind]:
    """What the fields of a dataclass hold, by their names."""
    hints = typing.get_type_hints(owner, include_extras=True)
    return {
        field.name: dataclasses.replace(kind_of(field.name, hints[field.name]), default=field.default)
        for field in dataclasses.fields(owner)
    }


def kind_of(name: str, hint: Any) -> Kind:
    """What an annotation says."""
    marks: tuple[Any, ...] = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *found = typing.get_args(hint)
        marks = tuple(found)
    optional = isinstance(hint, types.UnionType)
    if optional:
        hint = next(kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        return Kind(name, typing.get_args(hint)[0], (), optional, marks, many=True)
    if typing.get_origin(hint) is Literal:
        return Kind(name, str, typing.get_args(hint), optional, marks)
    return Kind(name, hint, (), optional, marks)


def settle_shares(instance: Any) -> None:
    """Puts the numbers that they stand for in the place of the shares that a dataclass was made with.

    It is the first number that is not below the share, so a share above 0 is never 0.

    Raises:
        InputError: That names the field as a flag.
    """
    for name, kind in kinds(type(instance)).items():
        given = getattr(instance, name)
        if kind.share_of is None or not isinstance(given, str) or not given.endswith("%"):
            continue
        whole = getattr(instance, kind.share_of.field)
        if isinstance(whole, int):
            try:
                object.__setattr__(instance, name, math.ceil(_share(given) * whole))
            except ValueError as error:
                raise InputError(f"{flag_of(name)} {error}.") from None


def check(instance: Any) -> None:
    """Checks that each field of a dataclass holds what it is annotated with.

    Raises:
        InputError: That names the field as a flag.
    """
    for name, kind in kinds(type(instance)).items():
        if complaint := kind.complaint(getattr(instance, name)):
            raise InputError(f"{flag_of(name)} {complaint}.")


def check_needs(instance: Any, given: Collection[str], where: str = "") -> None:
    """Checks that none of the fields that were given is without effect beside the others.

    Arguments:
        instance: The dataclass.
        given: The fields that its user named; others may have any value, since a preset may have set them.
        where: What the line adds to the name of the field.

    Raises:
        InputError: If one changes nothing, unless it is at its default.
    """
    for name, kind in kinds(type(instance)).items():
        if name not in given or kind.needs is None or getattr(instance, name) == kind.default:
            continue
        other = getattr(instance, kind.needs.field)
        if not kind.needs.holds(other):
            raise InputError(f"{flag_of(name)}{where} {kind.needs.complaint(other)}.")


def flag_of(name: str) -> str:
    """The flag of a field."""
    return f"--{name.replace('_', '-')}"


def quoted(value: object) -> str:
    """A text as an error repeats it."""
    return shown(repr(str(value)), SHOWN)


def told(value: object) -> str:
    """Any value as an error repeats it."""
    if isinstance(value, str | Path):
        return shown(value, SHOWN) or "nothing"
    return shown(repr(value), SHOWN)


def _parsed(kind: type, text: str, hint: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"must be {NAMES[kind]}, got {quoted(text)}{hint}") from None


def _share(text: str) -> Fraction:
    """A share as it is written, exactly: 7% of 100 is 7, and no float above it."""
    number = text.removesuffix("%")
    share = Fraction(number) / 100 if re.fullmatch(r"\d{1,3}(\.\d{1,9})?", number, re.ASCII) else None
    if share is None or share > 1:
        raise ValueError(f"must be from 0% to 100%, got {quoted(text)}")
    return share


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
