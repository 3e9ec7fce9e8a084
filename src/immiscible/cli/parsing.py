"""Flags to a dataclass through tyro, and its complaints on one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

import tyro

from immiscible.errors import InputError
from immiscible.training.presets import preset

T = TypeVar("T")
FRAME = "│╭╮╰╯─"


def parse(arguments: type[T], program: str, summary: str, words: Sequence[str]) -> T:
    """Parses flags. Those of a preset take the place of the defaults.

    Raises:
        InputError: If a flag is unknown, missing or has a wrong value.
        SystemExit: With status 0, after printing the help.
    """
    complaint = io.StringIO()
    settings: dict[str, Any] = {"prog": program, "description": summary, "args": words}
    if name := _preset_named(words):
        settings["default"] = _with_preset(arguments, name)
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(arguments, **settings, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise InputError(f"{_first_paragraph(complaint.getvalue())} See {program} --help.") from None


def _preset_named(words: Sequence[str]) -> str:
    """What stands behind the last --preset, nothing where there is none."""
    joined = [word.removeprefix("--preset=") for word in words if word.startswith("--preset=")]
    following = [after for word, after in pairwise(words) if word == "--preset"]
    return (following + joined or [""])[-1]


def _with_preset(arguments: type[T], name: str) -> T:
    """Default values that are a preset's; what has no default stays missing."""
    if not hasattr(arguments, "preset"):
        raise InputError(f"--preset is a flag of train and compare, got --preset {name}.")
    fields: Any = dataclasses.fields(arguments)  # pyright: ignore[reportArgumentType]
    known = {field.name: field for field in fields}
    missing = {name: tyro.MISSING for name, field in known.items() if field.default is dataclasses.MISSING}
    task: str = arguments.task  # pyright: ignore[reportAttributeAccessIssue]
    values = {key: value for key, value in preset(task, name).items() if key in known}
    return arguments(**missing | values | {"preset": name})


def _first_paragraph(box: str) -> str:
    """The text of tyro's framed message, title and rules aside."""
    lines = [line.strip() for line in box.strip().splitlines()[1:]]
    rule = next((i for i, line in enumerate(lines) if line.strip(FRAME + " ") == ""), len(lines))
    text = " ".join(line.strip(FRAME + " ") for line in lines[:rule])
    return re.sub(r"\s+", " ", text).rstrip(".") + "." if text else "the flags could not be read."
