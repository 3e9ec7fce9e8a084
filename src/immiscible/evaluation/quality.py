"""The quality of a trained run at several numbers of network calls, kept beside the run and measured only once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from immiscible.data import Images
from immiscible.evaluation.scores import Reference, score
from immiscible.samplers import AnySampler
from immiscible.tasks.runs import Run
from immiscible.training.files import write_json

FILE = "evaluation.json"
# Apart from the seeds of training, so that no run is scored on noise that it was trained on.
SAMPLING_SEED = 10_000
LARGEST_SAMPLE = 10_000


@dataclass(frozen=True)
class Question:
    """What identifies a measurement: two with equal fields have equal answers."""

    step: int
    nfe: str
    sampler: str
    guidance: float
    samples: int
    seed: int
    features: str
    noise_scale: float = 1.0


def evaluate_run(
    run: Run,
    reference: Reference,
    samplers: Sequence[AnySampler],
    *,
    samples: int,
    guidance: float = 1.0,
    noise_scale: float = 1.0,
    seed: int = SAMPLING_SEED,
) -> list[dict[str, Any]]:
    """Scores a run at its step with each sampler.

    Arguments:
        run: The run.
        reference: The data, as features.
        samplers: How to sample, each with its number of network calls.
        samples: How many images to draw for each score; all samplers start from the same noise.
        guidance: The weight of classifier-free guidance; 1 is none.
        noise_scale: The standard deviation of the starting noise; other than 1 it is a control.
        seed: The seed of the starting noise.

    Returns:
        A row per sampler: the fields of :class:`Question`, ``calls`` and the four scores. The rows are kept in
        ``RUN/evaluation.json``; what stands there is not measured again.
    """
    rows = read_rows(run.path)
    answers = []
    start = None
    for sampler in samplers:
        question = Question(
            run.step, str(sampler), sampler.name, guidance, samples, seed, reference.features.name, noise_scale
        )
        row = _find(rows, question)
        if row is None:
            start = start or run.start(samples, seed, noise_scale)
            drawn = run.sample(start, sampler, guidance)
            row = {**asdict(question), "calls": drawn.nfe, **score(drawn.images, reference).as_dict()}
            rows.append(row)
            write_json(run.path / FILE, {"scores": rows})
        answers.append(row)
    return answers


def sample_count(asked: int, data: Images) -> int:
    """How many images to draw for a score: as many as asked for, or for 0 as many as the data has, up to a limit."""
    return asked or min(len(data), LARGEST_SAMPLE)


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The measurements kept beside a run; none where the file is missing or unreadable."""
    try:
        return json.loads((run / FILE).read_text())["scores"]
    except (FileNotFoundError, ValueError, KeyError):
        return []


def _find(rows: list[dict[str, Any]], question: Question) -> dict[str, Any] | None:
    wanted = asdict(question)
    # Rows of older versions lack what was always at its default there.
    return next((row for row in rows if wanted.items() <= ({"noise_scale": 1.0} | row).items()), None)
