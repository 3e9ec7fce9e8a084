"""Measurements of a run, kept beside it in ``evaluation.json`` so that none is made twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from immiscible.config.metric import IMAGE_METRICS, Metric
from immiscible.config.values import Range, There, kinds
from immiscible.io.console import say
from immiscible.io.files import write_json
from immiscible.io.records import Unfit, check_list, check_record, number, read_json
from immiscible.runs.open import Model
from immiscible.samplers.starting import AUTO
from immiscible.training.checkpoint import set_aside

FILE = "evaluation.json"
# What rows of older versions lack.
AT_DEFAULT = {"noise_scale": 1.0, "clip": "", "task": "generate", "start": str(AUTO)}


@dataclass(frozen=True)
class Question:
    """What identifies a measurement: two with equal fields have equal answers."""

    step: Annotated[int, Range(0, 10**9)]
    nfe: str
    sampler: str
    guidance: Annotated[float, Range()]
    samples: Annotated[int, Range(1)]
    seed: Annotated[int, Range()]
    features: str
    noise_scale: Annotated[float, Range()] = 1.0
    clip: Annotated[str, There()] = ""
    task: str = "generate"
    start: str = str(AUTO)


def answer(
    run: Model, question: Question, measure: Callable[[], dict[str, Any]], metrics: Sequence[Metric] = IMAGE_METRICS
) -> dict[str, Any]:
    """The answer to a question about a run: the one that is kept, or else a new one, which is kept from then on.

    Arguments:
        run: The run, or the prior.
        question: What is asked.
        measure: Makes the measurement: ``calls``, the metrics, and what else belongs to the row.
        metrics: What is measured.

    Returns:
        The fields of the question and of its answer.
    """
    wanted = asdict(question)
    for row in read_rows(run.path, metrics):
        if wanted.items() <= (AT_DEFAULT | row).items():
            return row
    found = {**wanted, **measure()}
    # Measuring takes long: what stands there is read again.
    rows, whole = _rows(run.path / FILE, metrics)
    if not whole:
        say(
            f"warning: {run.path / FILE} is not as it was written: what cannot be read is measured again, and a copy "
            "is kept."
        )
        set_aside(run.path / FILE)
    write_json(run.path / FILE, {"scores": [*rows, found]})
    return found


def read_rows(run: Path, metrics: Sequence[Metric] = IMAGE_METRICS) -> list[dict[str, Any]]:
    """The measurements kept beside a run; what is not as it was written is passed over, and measured again.

    Arguments:
        run: The run directory.
        metrics: What was measured.
    """
    return _rows(run / FILE, metrics)[0]


def _rows(path: Path, metrics: Sequence[Metric]) -> tuple[list[dict[str, Any]], bool]:
    """The rows that are as they were written, and whether that is all that the file holds."""
    try:
        rows = check_record(read_json(path), {}, path, ("scores",))["scores"]
        check_list(rows, "scores", path, lambda row: True, "rows")
    except FileNotFoundError:
        return [], True
    except Unfit:
        return [], False
    whole = [row for row in rows if _is_row(row, metrics)]
    return whole, len(whole) == len(rows)


def _is_row(row: Any, metrics: Sequence[Metric]) -> bool:
    """Whether a row is a question with its answer."""
    asked = kinds(Question)
    answered = {name: number(name) for name in ("calls", *(metric.name for metric in metrics))}
    required = [name for name, kind in asked.items() if kind.default is MISSING]
    try:
        check_record(row, {**asked, **answered, "clip_score": number("clip_score")}, "", [*required, *answered])
    except Unfit:
        return False
    return True
