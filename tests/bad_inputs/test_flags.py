"""Every flag of every command is given what it must not be; the cases are made from the declarations of the flags."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from immiscible import cli
from immiscible.cli import COMMANDS
from immiscible.config.values import Kind, Needs, Range, Text, There, kinds

HOSTILE = "\x1b[2J\x07\x9b31m"
ENDLESS = "9" * 5000


def arguments_of(command: tuple[str, ...]) -> Any:
    module, _, name = COMMANDS[command].arguments.partition(":")
    return getattr(importlib.import_module(module), name)


def least_words(command: tuple[str, ...], but: str = "") -> list[str]:
    """The words that a command needs, apart from one."""
    words = list(command)
    for kind in kinds(arguments_of(command)).values():
        if kind.name != but and kind.default is dataclasses.MISSING:
            words += [kind.name] if kind.positional else [flag(kind), kind.name]
    return words


def flag(kind: Kind) -> str:
    return f"--{kind.name.replace('_', '-')}"


def bad_values(kind: Kind) -> Iterator[str]:
    """Spellings that a flag with a value must refuse."""
    if kind.type in (int, float):
        yield from ("x", "", " ", "1,5", "0x10", "1e", HOSTILE, "nan", "inf", "-inf", "true", ENDLESS, "-" + ENDLESS)
        limits = [mark for mark in kind.marks if isinstance(mark, Range)]
        assert limits, f"{kind.name} has no bounds"
        for limit in limits:
            yield from out_of(limit, kind.type)
    if kind.type is int:
        yield from ("1.5", "1e3")
    elif kind.type is float:
        yield "1e999"
    elif kind.choices:
        yield from ("", "x", kind.choices[0].upper(), f"{kind.choices[0]} ", HOSTILE, ENDLESS)
    elif kind.type is Path:
        yield from ("", "a\0b")
    elif kind.type is str:
        yield "a\0b"
    if kind.type in (str, Path) and not any(isinstance(mark, There) for mark in kind.marks):
        yield from (HOSTILE, "a\udcffb", "a\nb")
    yield from ("" for mark in kind.marks if isinstance(mark, Text) and mark.complaint(""))


def out_of(limit: Range, kind: type) -> Iterator[str]:
    """Numbers just beside a range."""
    if kind is int:
        yield from (str(int(end)) for end in (limit.least - 1, limit.most + 1) if math.isfinite(end))
    else:
        yield from (repr(limit.least - 1), repr(limit.most * 1.01), "1e300", "-1e300")
    if limit.excluded is not None:
        yield str(kind(limit.excluded))


TRAINING = [command for command in COMMANDS if command[0] in ("train", "compare")]
OTHERS = [command for command in COMMANDS if command not in TRAINING]
FLAGS = [
    pytest.param(command, kind, id=f"{'-'.join(command)} {kind.name}")
    for command in COMMANDS
    for kind in kinds(arguments_of(command)).values()
]


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Says so if a command is about to do its work."""
    resolve = cli._resolve

    def found(path: str) -> Any:
        def accepted(arguments: Any) -> None:
            raise AssertionError(f"accepted: {arguments}")

        return accepted if path in {command.runner for command in COMMANDS.values()} else resolve(path)

    monkeypatch.setattr(cli, "_resolve", found)


@pytest.mark.parametrize(("command", "kind"), FLAGS)
def test_what_a_flag_cannot_hold_is_refused(command: tuple[str, ...], kind: Kind, refused: Callable[..., str]) -> None:
    words, said = least_words(command, kind.name), kind.metavar or flag(kind)
    if kind.type is bool:
        for word in (f"{flag(kind)}=1", f"--no{flag(kind)[1:]}=false", f"{flag(kind)}="):
            refused([*words, word], "takes no value", flag(kind)[2:])
        refused([*words, flag(kind), "true"], "'true' is not expected here")
        return
    for value in bad_values(kind):
        if kind.positional:
            line = refused([value if word == kind.name else word for word in least_words(command)])
        else:
            line = refused([*words, f"{flag(kind)}={value}"])
        assert said in line, (value, line)
        assert "must" in line, line
    if not kind.positional:
        refused([*words, flag(kind)], f"{flag(kind)} must be followed by a value", "--help")
        refused([*words, flag(kind), "--json"], f"{flag(kind)} must be followed by a value, got '--json'")


@pytest.mark.parametrize(("command", "kind"), [case for case in FLAGS if not case.values[1].positional])
def test_a_mistyped_flag_is_named_with_the_one_that_is_meant(
    command: tuple[str, ...], kind: Kind, refused: Callable[..., str]
) -> None:
    name = flag(kind)
    swapped = name[:-2] + name[-1] + name[-2] + "x"
    line = refused([*least_words(command), swapped, "1"], f"unknown flag {swapped}", "--help")
    assert len(name) < 7 or "meant?" in line


@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
def test_missing_and_surplus_words_are_told(command: tuple[str, ...], refused: Callable[..., str]) -> None:
    for kind in kinds(arguments_of(command)).values():
        if kind.default is dataclasses.MISSING:
            # Without one of two words it is the last that is missing.
            told = "DIR" if (command, kind.metavar) == (("export",), "RUN") else kind.metavar or flag(kind)
            refused(least_words(command, kind.name), f"{told} must be given, got nothing")
    words = least_words(command)
    for surplus in ("more", "", "-", HOSTILE, "7"):
        refused([*words, surplus], "is not expected here")
    for odd in ("-x", "--", "---steps", "--=", "-1", f"--{HOSTILE}", f"--{ENDLESS}", "--\udcff"):
        refused([*words, odd], "unknown flag")


@pytest.mark.parametrize(("command", "kind"), [case for case in FLAGS if case.values[1].needs])
def test_a_flag_without_effect_is_refused(command: tuple[str, ...], kind: Kind, refused: Callable[..., str]) -> None:
    needs = kind.needs
    assert isinstance(needs, Needs)
    others = {"network": ["--network", "mlp"], "process": ["--process", "flow"]}.get(needs.field, [])
    other = {bool: "", int: "3", float: "0.3", str: "8"}[kind.type]
    refused(
        [*least_words(command), *others, flag(kind), *filter(None, [other])], flag(kind), f"needs --{needs.field}"[:12]
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian", "flow"], "is train meant?"),
        (["train", "fow"], "is train flow meant?"),
        (["compare", "stable_diffusion"], "is compare stable-diffusion meant?"),
        (["make-tiny"], "is make-tiny-sd meant?"),
        ([HOSTILE], "unknown command"),
        ([""], "unknown command"),
        (["train", HOSTILE], "unknown command"),
        ([ENDLESS], "unknown command"),
        (["--stpes"], "unknown command"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_mistyped_command_is_named_with_the_one_that_is_meant(
    words: list[str], said: str, refused: Callable[..., str]
) -> None:
    refused(words, said)


@pytest.mark.parametrize("command", TRAINING, ids="-".join)
def test_unknown_presets_are_refused(command: tuple[str, ...], refused: Callable[..., str]) -> None:
    for name in ("x", HOSTILE, "digits ", ENDLESS):
        refused([*least_words(command), "--preset", name], "--preset must be")


@pytest.mark.parametrize("command", OTHERS, ids="-".join)
def test_a_flag_of_other_commands_says_whose_it_is(command: tuple[str, ...], refused: Callable[..., str]) -> None:
    refused([*least_words(command), "--preset", "digits"], "--preset is a flag of train and compare")


def test_there_are_as_many_cases_as_promised() -> None:
    cases = sum(len(list(bad_values(kind))) for _, kind in (case.values for case in FLAGS))
    assert cases > 2000
