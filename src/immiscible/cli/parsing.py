"""Flags to a dataclass through tyro, and its complaints on one line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import TypeVar

import tyro

from immiscible.errors import InputError

T = TypeVar("T")
FRAME = "│╭╮╰╯─"


def parse(arguments: type[T], program: str, summary: str, words: Sequence[str]) -> T:
    """Parses flags.

    Raises:
        InputError: If a flag is unknown, missing or has a wrong value.
        SystemExit: With status 0, after printing the help.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                arguments, prog=program, description=summary, args=words, config=(tyro.conf.OmitArgPrefixes,)
            )
    except SystemExit as stop:
        if stop.code == 0:
            raise
        raise InputError(f"{_first_paragraph(complaint.getvalue())} See {program} --help.") from None


def _first_paragraph(box: str) -> str:
    """The text of tyro's framed message, title and rules aside."""
    lines = [line.strip() for line in box.strip().splitlines()[1:]]
    rule = next((i for i, line in enumerate(lines) if line.strip(FRAME + " ") == ""), len(lines))
    text = " ".join(line.strip(FRAME + " ") for line in lines[:rule])
    return re.sub(r"\s+", " ", text).rstrip(".") + "." if text else "the flags could not be read."
