"""SIGINT and SIGTERM end a run at the end of the step, after a checkpoint. A second one ends it at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from immiscible.errors import ToldError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(ToldError):
    """The run was asked to stop and has saved its state."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal_number


class StopRequest:
    """A context in which the signals only leave a note, ``received``, with the number of the signal or 0."""

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        # Only the main thread may set handlers; elsewhere whoever owns the main thread decides.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._previous[number])  # pyright: ignore[reportArgumentType]
