"""What a command says on a terminal while it works: lines of plain text and progress bars, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn, track

from immiscible.errors import shown

T = TypeVar("T")
# Diagnostics and progress go to stderr, results to stdout.
console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Prints one line of plain text to stderr; nothing in it is markup, or moves the cursor.

    Where it cannot be printed, as on a log on a full disk, the work goes on without it.
    """
    try:
        console.print(shown(message), markup=False)
    except BrokenPipeError:
        raise
    except OSError:
        pass


class Bar:
    """A progress bar with loss, step rate and time to go, to enter as a context; drawn on terminals only."""

    def __init__(self, description: str, total: int, done: int, wanted: bool) -> None:
        columns = [
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        ]
        self.wanted, self.visible = wanted, wanted and console.is_terminal
        self._progress = Progress(*columns, console=console, disable=not self.visible)
        self._task = self._progress.add_task(description, total=total, completed=done, loss="", rate="")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self) -> None:
        self._progress.advance(self._task)

    def show(self, loss: float, rate: float) -> None:
        """Shows the latest loss and the steps per second."""
        self._progress.update(self._task, loss=f"loss {loss:.4f}", rate=f"{rate:.1f} steps/s")


def tracked(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """The same items, with a progress bar on terminals."""
    return track(items, description, total=total, console=console, disable=not console.is_terminal)


class Stages:
    """A progress bar for several pieces of work, one after the other, to enter as a context; on terminals only."""

    def __init__(self) -> None:
        columns = [TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn()]
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._progress.add_task("")

    def __enter__(self) -> Stages:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, description: str) -> Callable[[int, int], None]:
        """Begins the next piece; gives what is called with how much of it is done, and of how much."""
        self._progress.reset(self._task, description=shown(description))
        return lambda done, total: self._progress.update(self._task, completed=done, total=total)
