"""What a command prints when it is done: its results, on stdout."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import Any

from immiscible.errors import REMEDIES, WriteError, shown


def report(as_json: bool, result: Any, text: str, indent: int | None = None) -> None:
    """Prints results, as JSON or in words. Names in the words cannot move the cursor; the JSON is ASCII."""
    lines = [json.dumps(result, indent=indent)] if as_json else [shown(line) for line in text.split("\n")]
    print("\n".join(lines))


def make_printable() -> None:
    """Lets a terminal that knows few characters show the others escaped, and one that is not there show nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_results() -> None:
    """Writes what was printed out now, while there is somebody to be told that it cannot be.

    Raises:
        WriteError: If the disk that they go to is full, or the like.
        BrokenPipeError: If who read them has gone.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
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
