"""Flags to a dataclass: words to values, as the fields say what they hold. The page of help is tyro's."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NoReturn, TypeVar

from immiscible.config.systems import preset
from immiscible.config.values import Kind, check_needs, flag_of, kinds, quoted, told
from immiscible.errors import InputError

T = TypeVar("T")
HELP = ("-h", "--help")


def parse(arguments: type[T], program: str, summary: str, words: Sequence[str]) -> T:
    """Parses flags. Those of a preset take the place of the defaults.

    Raises:
        InputError: If a flag is unknown, missing, has a wrong value, or changes nothing beside the others.
        SystemExit: With status 0, after printing the help.
    """
    if any(word in HELP for word in words):
        _print_help(arguments, program, summary, _preset_named(words))
    known, named = kinds(arguments), _preset_named(words)
    if named and "preset" not in known:
        raise InputError(f"--preset is a flag of train and compare, got --preset {told(named)}.")
    try:
        given = _Words(known, words).values()
    except _Misspelled as error:
        raise InputError(f"{error} See {program} --help.") from None
    values = _preset_values(arguments, given.get("preset", "")) | given
    for name, kind in known.items():
        if name not in values and kind.default is dataclasses.MISSING:
            shown = kind.metavar if kind.positional else flag_of(name)
            raise InputError(f"{shown} must be given, got nothing. See {program} --help.")
    made = arguments(**values)
    check_needs(made, given)
    return made


class _Misspelled(ValueError):
    """Words that are not those of the command."""


class _Words:
    """The words behind a command, read one after the other.

    Words that make a list stand together: one behind a flag that takes no value is no more of them.
    ``--batch-size 8``, ``--batch-size=8`` and ``--batch_size 8`` say the same; of a flag that stands twice the last
    counts.
    """

    def __init__(self, known: Mapping[str, Kind], words: Sequence[str]) -> None:
        self._flags = {name.replace("_", "-"): kind for name, kind in known.items() if not kind.positional}
        self._positional = [kind for kind in known.values() if kind.positional]
        self._words = iter(words)

    def values(self) -> dict[str, Any]:
        """The values by the names of their fields."""
        found: dict[str, Any] = {}
        places: Iterator[Kind] = iter(self._positional)
        last: Kind | None = None
        for word in self._words:
            if word.startswith("-") and word != "-":
                name, value = self._flag(word)
                found[name], last = value, None
                continue
            kind = last if last and last.many else next(places, None)
            if kind is None:
                raise _Misspelled(f"{quoted(word)} is not expected here: flags begin with --, and some take no value.")
            value, last = _read(kind, word, kind.metavar), kind
            found[kind.name] = (*found.get(kind.name, ()), value) if kind.many else value
        return found

    def _flag(self, word: str) -> tuple[str, Any]:
        """The field of a flag, and its value."""
        spelled, equals, text = word.removeprefix("--").partition("=")
        name = spelled.replace("_", "-")
        kind = self._flags.get(name) if word.startswith("--") else None
        negated = self._flags.get(name.removeprefix("no-")) if name.startswith("no-") else None
        if kind is None and (negated is None or negated.type is not bool):
            _unknown(f"flag {told(word.partition('=')[0])}", f"--{name}", [f"--{flag}" for flag in self._flags])
        if kind is None or kind.type is bool:
            if equals:
                raise _Misspelled(f"--{name} takes no value, got {quoted(text)}.")
            field = kind or negated
            assert field is not None
            return field.name, kind is not None
        if not equals:
            text = next(self._words, None)
            if text is None or self._is_flag(text):
                raise _Misspelled(f"--{name} must be followed by a value, got {quoted(text) if text else 'none'}.")
        return kind.name, _read(kind, text, f"--{name}")

    def _is_flag(self, word: str) -> bool:
        spelled = word.partition("=")[0].removeprefix("--").replace("_", "-")
        return word.startswith("--") and (spelled in self._flags or spelled.removeprefix("no-") in self._flags)


def unknown(what: str, given: str, known: Iterable[str]) -> str:
    """The line for a word that is none of those known, with the one that may be meant."""
    near = difflib.get_close_matches(given, list(known), 1)
    return f"unknown {what}" + (f": is {near[0]} meant?" if near else ".")


def _unknown(what: str, given: str, known: Iterable[str]) -> NoReturn:
    raise _Misspelled(unknown(what, given, known))


def _read(kind: Kind, text: str, said: str) -> Any:
    try:
        return kind.read(text)
    except ValueError as error:
        raise InputError(f"{said} {error}.") from None


def _preset_named(words: Sequence[str]) -> str:
    """What stands behind a --preset, for the defaults that the help shows."""
    last = ""
    for word, after in pairwise([*words, ""]):
        last = after if word == "--preset" else word.removeprefix("--preset=") if "--preset=" in word else last
    return last


def _preset_values(arguments: type, name: str) -> dict[str, Any]:
    """The settings of a preset that a command has flags for."""
    if not name:
        return {}
    task: str = arguments.task  # pyright: ignore[reportAttributeAccessIssue]
    return {key: value for key, value in preset(task, name).items() if key in kinds(arguments)}


def _print_help(arguments: type, program: str, summary: str, name: str) -> NoReturn:
    """Prints the page of help, with the defaults of a preset if one is named, and ends."""
    import tyro

    settings: dict[str, Any] = {"prog": program, "description": summary, "args": ["--help"]}
    if name and hasattr(arguments, "preset"):
        # Made without its checks, which what is missing does not pass.
        shown: Any = object.__new__(arguments)
        values = _preset_values(arguments, name) | {"preset": name}
        for field, kind in kinds(arguments).items():
            default = tyro.MISSING if kind.default is dataclasses.MISSING else kind.default
            object.__setattr__(shown, field, values.get(field, default))
        settings["default"] = shown
    tyro.cli(arguments, **settings, config=(tyro.conf.OmitArgPrefixes,))
    raise SystemExit(0)
