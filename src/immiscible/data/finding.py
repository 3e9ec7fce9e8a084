"""Finds the reader for what a user calls their data, among the modules of a package."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from typing import Any

from immiscible.errors import InputError


def find_reader(spec: str, package: str, names: Iterable[str], what: str) -> Any:
    """The first module of a package whose ``matches`` takes some data. Each is imported when it is its turn.

    Arguments:
        spec: What the data are called.
        package: The package of the readers.
        names: Their modules, in the order in which they are asked.
        what: What the data must be, for a complaint.

    Raises:
        InputError: If no reader takes them.
    """
    for name in names if spec else ():
        reader = importlib.import_module(f"{package}.{name}")
        if reader.matches(spec):
            return reader
    known = bool(spec) and os.path.exists(os.path.expanduser(spec))
    raise InputError(f"{what}, got `{spec}`, {'which is none of these' if known else 'but there is no such path'}.")
