"""The quality of a trained run at several numbers of network calls, kept beside the run and measured only once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from immiscible.data import Images
from immiscible.data.images import evenly_spaced
from immiscible.evaluation.clip import ClipScore
from immiscible.evaluation.scores import Reference, score
from immiscible.samplers import AnySampler, PipelineSampler
from immiscible.tasks.runs import Run
from immiscible.training.files import write_json

FILE = "evaluation.json"
# Apart from the seeds of training, so that no run is scored on noise that it was trained on.
SAMPLING_SEED = 10_000
LARGEST_SAMPLE = 10_000
# What rows of older versions lack.
AT_DEFAULT = {"noise_scale": 1.0, "clip": "", "task": "generate"}


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
    clip: str = ""
    task: str = "generate"


def evaluate_run(
    run: Run,
    reference: Reference,
    samplers: Sequence[AnySampler],
    *,
    samples: int,
    guidance: float = 1.0,
    noise_scale: float = 1.0,
    seed: int = SAMPLING_SEED,
    clip: ClipScore | None = None,
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
        clip: Scores how well samples fit their prompts, where there are prompts.

    Returns:
        A row per sampler: the fields of :class:`Question`, ``calls`` and the four scores. The rows are kept in
        ``RUN/evaluation.json``; what stands there is not measured again.
    """
    name, features = clip.name if clip else "", reference.features.name
    answers, start = [], None
    for sampler in samplers:
        question = Question(run.step, str(sampler), sampler.name, guidance, samples, seed, features, noise_scale, name)
        if (row := _find(read_rows(run.path), question)) is None:
            start = start or run.start(samples, seed, noise_scale)
            drawn = run.sample(start, sampler, guidance)
            found = score(drawn.images, reference).as_dict()
            extra = {"clip_score": clip(drawn.images, run.prompts(samples))} if clip else {}
            row = _keep(run, {**asdict(question), "calls": drawn.nfe, **found, **extra})
        answers.append(row)
    return answers


def evaluate_painting(
    run: Run,
    data: Images,
    reference: Reference,
    samplers: Sequence[AnySampler],
    task: str,
    *,
    samples: int,
    guidance: float,
    seed: int = SAMPLING_SEED,
) -> list[dict[str, Any]]:
    """Scores images of the data whose centre (``inpaint``) or all but it (``outpaint``) a run draws anew.

    The rest of each image is kept, so the scores are lower than those of samples and compare among themselves only.
    """
    from immiscible.tasks.stable_diffusion.inpaint import Painting, inpaint, read_mask
    from immiscible.tasks.stable_diffusion.texts import captions_of

    config: Any = run.config
    chosen = evenly_spaced(len(data), samples)
    captions = captions_of(data, config.caption_template)
    prompts = [captions[index] for index in chosen.tolist()]
    mask = read_mask("center" if task == "inpaint" else "outer", data.shape[1:])
    answers = []
    for sampler in samplers:
        question = Question(
            run.step, str(sampler), sampler.name, guidance, len(chosen), seed, reference.features.name, task=task
        )
        if (row := _find(read_rows(run.path), question)) is None:
            pipeline = cast(Any, run.task).pipeline().to(run.device)
            how = Painting(cast(PipelineSampler, sampler), guidance, seed=seed)
            painted = inpaint(pipeline, data.batch(chosen)[0], prompts, mask, how)
            row = _keep(run, {**asdict(question), "calls": int(str(sampler)), **score(painted, reference).as_dict()})
        answers.append(row)
    return answers


def _keep(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    """Adds a row to those beside the run."""
    write_json(run.path / FILE, {"scores": [*read_rows(run.path), row]})
    return row


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
    return next((row for row in rows if wanted.items() <= (AT_DEFAULT | row).items()), None)
