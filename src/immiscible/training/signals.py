"""Signals end a run at the end of the step, after a checkpoint. A second one ends it at once.

They are SIGINT and SIGTERM; SIGHUP, which a terminal sends when it closes, unless it is ignored as under ``nohup``; and
SIGUSR1, which schedulers send before time is up. Outside of the loop all but SIGINT end a command at once, in one line.
Imports no torch.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from immiscible.errors import ToldError

# Not every system has all of them.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))

# Those that are heard even where they are ignored, as SIGINT is by what a script starts in the background.
ALWAYS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(ToldError):
    """The run was asked to stop and has saved its state."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal_number


class Ended(KeyboardInterrupt):
    """A signal other than SIGINT came where there is nothing to save. Like that of SIGINT it is no ``Exception``."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def ending_of(error: KeyboardInterrupt) -> tuple[str, int]:
    """The line that is said of an interruption, and the exit status."""
    if isinstance(error, Ended):
        return f"ended by {signal.Signals(error.number).name}.", 128 + error.number
    return "interrupted.", 128 + signal.SIGINT


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """A context in which signals raise :class:`Ended` where they would end the process without a word.

    Whoever handles or ignores one already goes on to do so. Processes of a launcher are left alone: it ends all of them
    where one fails, and that one has said why.
    """
    alone = os.environ.get("WORLD_SIZE", "1") in ("", "1")
    ours = [number for number in SIGNALS if number != signal.SIGINT and signal.getsignal(number) == signal.SIG_DFL]
    if not alone or threading.current_thread() is not threading.main_thread():
        ours = []
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    # A second one does not wait until the command has tidied up.
    signal.signal(number, signal.SIG_DFL)
    raise Ended(number)


class StopRequest:
    """A context in which the signals only leave a note, ``received``, with the number of the signal or 0."""

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        # Only the main thread may set handlers; elsewhere whoever owns the main thread decides.
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in SIGNALS if number in ALWAYS or signal.getsignal(number) != signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._previous[number])  # pyright: ignore[reportArgumentType]
