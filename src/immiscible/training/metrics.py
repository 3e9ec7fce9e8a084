"""The numbers of a run while it goes: metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from immiscible.errors import InputError, one_line
from immiscible.io.console import say
from immiscible.io.files import write_text, writing
from immiscible.io.records import check_record, number, parse_json
from immiscible.training.checkpoint import set_aside

METRICS = "metrics.jsonl"
STEP = number("step", whole=True, least=0, most=10**9)
# What a run took. All else that it writes is the same whenever it was stopped and resumed.
TIMES = ("steps_per_second", "step_ms", "pairing_ms", "overhead_percent")


class Metrics:
    """``metrics.jsonl``, one JSON object per logged step, and the same numbers for TensorBoard.

    Arguments:
        out: The run directory.
        resumed_at: The step that the run goes on from. Lines of later steps, which will come again, are dropped.
        tensorboard: Whether to write TensorBoard events too.
    """

    def __init__(self, out: Path, resumed_at: int, tensorboard: bool) -> None:
        self._path = path = out / METRICS
        lines, altered = _whole_lines(path)
        if altered:
            say(f"warning: {path}: {altered} lines are not as they were written and are left out; a copy is kept.")
            set_aside(path)
        kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= resumed_at]
        write_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")
        self._board = Board(out / "tensorboard", resumed_at) if tensorboard else None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends one line."""
        with writing(self._path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        if self._board is not None:
            self._board.write(step, values)

    def sync(self) -> None:
        """Makes the lines so far survive a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        # What could not be written was reported then.
        with suppress(OSError):
            self._file.close()
        if self._board is not None:
            self._board.close()


class Board:
    """TensorBoard's events. They are a second copy of the metrics: a failure is reported once, and ends them.

    Arguments:
        folder: Where they are written.
        resumed_at: The step that the run goes on from; TensorBoard drops those of later steps.
    """

    def __init__(self, folder: Path, resumed_at: int) -> None:
        self._writer: Any = None
        before = set(threading.enumerate())
        with self._told():
            from torch.utils.tensorboard.writer import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=resumed_at + 1)
        self._threads = set(threading.enumerate()) - before
        self._hook, threading.excepthook = threading.excepthook, self._failed_aside

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds the numbers of a step."""
        if self._writer is None:
            return
        with self._told():
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        with self._told():
            if self._writer is not None:
                self._writer.close()
        threading.excepthook = self._hook

    def _failed_aside(self, failure: threading.ExceptHookArgs) -> None:
        # TensorBoard writes in a thread of its own, and raises here what stopped it; a traceback besides says no more.
        if failure.thread not in self._threads:
            self._hook(failure)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        # Whatever stops TensorBoard or its thread, training does not depend on it.
        except Exception as error:
            self._writer = None
            hint = "`pip install tensorboard`, or add --no-tensorboard" if isinstance(error, ImportError) else ""
            say(
                f"warning: nothing more is written to TensorBoard, metrics.jsonl has the same: {one_line(error)}"
                f"{hint and f': {hint}'}."
            )


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The whole lines of ``metrics.jsonl``; what a killed process left unfinished or was altered is skipped.

    Raises:
        InputError: If what has that name cannot be read.
    """
    return _whole_lines(out / METRICS)[0]


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines that are as they were written, and how many are not, apart from a last one that was not finished."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise InputError(f"{path} must be a readable file, got: {error.strerror}.") from None
    found = [_line(line) for line in lines]
    altered = sum(line is None for line, text in zip(found[:-1], lines, strict=False) if text.strip())
    return [line for line in found if line is not None], altered


def _line(text: bytes) -> dict[str, Any] | None:
    """What a line says: its step and finite numbers; None if it says something else."""
    try:
        values = parse_json(text)
        known = {name: number(name) for name in values} if isinstance(values, dict) else {}
        return check_record(values, {**known, "step": STEP}, "", ["step"])
    except ValueError:
        return None
