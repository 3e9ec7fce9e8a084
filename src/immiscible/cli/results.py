"""What a command prints when it is done: its results, on stdout."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from immiscible.errors import REMEDIES, WriteError, shown


def report(as_json: bool, result: Any, text: str, indent: int | None = None) -> None:
    """Prints results, as JSON or in words. Names in the words cannot move the cursor; the JSON is ASCII."""
    lines = [json.dumps(result, indent=indent)] if as_json else [shown(line) for line in text.split("\n")]
    with _printing():
        print("\n".join(lines))


def make_printable() -> None:
    """Lets a terminal that knows few characters show the others escaped, and one that is not there take what it gets.

    Where a standard stream is closed, the next file that is opened would get its number, and with it whatever a library
    in another language prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def draws_lines() -> bool:
    """Whether results go to where lines of a table can be shown."""
    return (getattr(sys.stdout, "encoding", None) or "ascii").lower().startswith("utf")


def flush_results() -> None:
    """Writes what was printed out now, while a failure can still be reported.

    Raises:
        WriteError: If the disk that they go to is full, or the like.
        BrokenPipeError: If who read them has gone.
    """
    with _printing():
        if sys.stdout is not None:
            sys.stdout.flush()


@contextmanager
def _printing() -> Iterator[None]:
    """Reports in one line that results cannot be printed."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        silence_results()
        if error.errno not in REMEDIES:
            raise
        raise WriteError("the results to the standard output", error.errno) from error


def silence_results() -> None:
    """Drops what was printed and cannot be written, so that nothing is said of it when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
