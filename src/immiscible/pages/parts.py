"""What a page is made of besides text: names, tables and pictures. The macros of ``parts.html.jinja`` show them."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Name:
    """A name that may stand behind a dot in its colour.

    Attributes:
        text: The name.
        colour: The class of the dot in the style sheet: ``baseline``, or ``c0`` to ``c5``; None for no dot.
    """

    text: str
    colour: str | None = None

    @property
    def pieces(self) -> list[str]:
        """The name in pieces: a line may break after a colon or an at sign."""
        return re.split("(?<=[:@])", self.text)


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it says, such as a mean.
        spread: The standard deviation, which is set smaller and takes a line of its own on a phone.
        note: What stands below.
        best: Whether it is marked as the best.
    """

    text: str
    spread: str = ""
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: What it shows, in a word or two.
        meaning: How the title goes on, with its punctuation.
        columns: The headings, that of the first column included.
        rows: For each row its heading and its cells.
    """

    title: str
    meaning: str
    columns: Sequence[str]
    rows: Sequence[tuple[Name, Sequence[Cell]]]


def settings_table(settings: Mapping[str, object]) -> Table:
    """The settings and the machine of a page, one a row."""
    rows = [(Name(key.replace("_", " ")), [Cell(str(value))]) for key, value in settings.items()]
    return Table("Settings", " and machine", ["setting", "value"], rows)


@dataclass(frozen=True)
class Picture:
    """A PNG picture within a page.

    Attributes:
        png: The file's bytes.
        alt: What it shows, in words, for a reader who cannot see it.
        dark: The version for a dark page, where there is one.
    """

    png: bytes
    alt: str
    dark: bytes = b""

    @property
    def address(self) -> str:
        """An address that needs no file."""
        return _address(self.png)

    @property
    def dark_address(self) -> str:
        """The address of the dark version."""
        return _address(self.dark)


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@dataclass(frozen=True)
class Finding:
    """A sentence on what came out.

    Attributes:
        subject: The name that it begins with, which is set in bold; may be empty.
        text: The rest.
    """

    subject: str
    text: str


Findings = Mapping[str, Sequence[Finding]]
"""Findings by the question that they answer."""
