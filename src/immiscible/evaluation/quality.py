"""The quality of a trained run at several numbers of network calls, kept beside the run and measured only once.

Images are drawn in parts on the device of the run. Of each part only its features stay, on the host, so the peak of
memory on the device is that of one part, :attr:`immiscible.runs.open.Run.at_once` images, however many are scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from torch import Tensor

from immiscible.config.metric import IMAGE_METRICS
from immiscible.config.values import Range, There, kinds
from immiscible.data import Images
from immiscible.data.images import evenly_spaced
from immiscible.evaluation.clip import ClipMeter, ClipScore
from immiscible.evaluation.scores import Reference, check_count, score_features
from immiscible.io.console import say
from immiscible.io.files import write_json
from immiscible.io.records import Unfit, check_list, check_record, number, read_json
from immiscible.runs.open import Run
from immiscible.samplers import PipelineSampler, Sampler
from immiscible.training.checkpoint import set_aside

FILE = "evaluation.json"
# Apart from the seeds of training, so that no run is scored on noise that it was trained on.
SAMPLING_SEED = 10_000
LARGEST_SAMPLE = 10_000
# What rows of older versions lack.
AT_DEFAULT = {"noise_scale": 1.0, "clip": "", "task": "generate"}
# What a row says of its question: the first five are there always.
ANSWER = {name: number(name) for name in ("calls", *(metric.name for metric in IMAGE_METRICS), "clip_score")}


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


@dataclass(frozen=True)
class Trial:
    """What is drawn for a score.

    Attributes:
        samples: How many images; all samplers start from the same noise.
        guidance: The weight of classifier-free guidance; 1 is none.
        noise_scale: The standard deviation of the starting noise; other than 1 it is a control.
        seed: The seed of the starting noise.
    """

    samples: int
    guidance: float = 1.0
    noise_scale: float = 1.0
    seed: int = SAMPLING_SEED


def evaluate_run(
    run: Run,
    reference: Reference,
    samplers: Sequence[Sampler],
    trial: Trial,
    clip: ClipScore | None = None,
) -> list[dict[str, Any]]:
    """Scores a run at its step with each sampler.

    Arguments:
        run: The run.
        reference: The data, as features.
        samplers: How to sample, each with its number of network calls.
        trial: What is drawn for each score.
        clip: Scores how well samples fit their prompts, where there are prompts.

    Returns:
        A row per sampler: the fields of :class:`Question`, ``calls``, the four scores, and a ``warning`` where the
        images are few. The rows are kept in ``RUN/evaluation.json``; what stands there is not measured again.

    Raises:
        InputError: If fewer than four images are to be drawn, or they are not finite.
    """
    check_count(trial.samples)
    name, features = clip.name if clip else "", reference.features.name
    guidance, samples, seed, noise_scale = trial.guidance, trial.samples, trial.seed, trial.noise_scale
    answers = []
    for sampler in samplers:
        question = Question(run.step, str(sampler), sampler.name, guidance, samples, seed, features, noise_scale, name)
        if (row := _find(read_rows(run.path), question)) is None:
            measured = _measure(run, reference, sampler, question, clip)
            row = _keep(run, {**asdict(question), **measured, **_warning(reference, samples)})
        answers.append({**row, **_warning(reference, samples)})
    return answers


def _measure(
    run: Run, reference: Reference, sampler: Sampler, question: Question, clip: ClipScore | None
) -> dict[str, Any]:
    """Draws images in parts and scores them."""
    meter = clip.meter() if clip else None
    values, calls = [], 0
    for first in range(0, question.samples, run.at_once):
        numbers = range(first, min(first + run.at_once, question.samples))
        part, its_calls = _draw(run, reference, sampler, question, numbers, meter)
        values.append(part)
        calls = max(calls, its_calls)
    extra = {"clip_score": meter.mean()} if meter else {}
    return {"calls": calls, **score_features(torch.cat(values), reference).as_dict(), **extra}


def _draw(
    run: Run, reference: Reference, sampler: Sampler, question: Question, numbers: range, meter: ClipMeter | None
) -> tuple[Tensor, int]:
    """The features of the images with some numbers, and the network calls. The images end with this call."""
    start = run.start(len(numbers), question.seed, question.noise_scale, numbers.start)
    drawn = run.sample(start, sampler, question.guidance)
    if meter:
        meter.add(drawn.images, run.prompts(numbers.stop)[numbers.start :])
    return reference.embed(drawn.images), drawn.nfe


def _warning(reference: Reference, samples: int) -> dict[str, str]:
    doubts = reference.doubts(samples)
    return {"warning": doubts} if doubts else {}


def evaluate_painting(
    run: Run,
    data: Images,
    reference: Reference,
    samplers: Sequence[Sampler],
    task: str,
    trial: Trial,
) -> list[dict[str, Any]]:
    """Scores images of the data whose centre (``inpaint``) or all but it (``outpaint``) a run draws again.

    The rest of each image is kept, so the scores are lower than those of samples and compare among themselves only.

    Raises:
        InputError: If fewer than four images are to be drawn.
    """
    from immiscible.tasks.stable_diffusion.inpaint import Painting, inpaint_parts, read_mask
    from immiscible.tasks.stable_diffusion.texts import captions_of

    config: Any = run.config
    guidance, seed = trial.guidance, trial.seed
    chosen = evenly_spaced(len(data), trial.samples)
    check_count(len(chosen))
    captions = captions_of(data, config.caption_template)
    mask = read_mask("center" if task == "inpaint" else "outer", data.shape[1:])
    answers = []
    for sampler in samplers:
        question = Question(
            run.step, str(sampler), sampler.name, guidance, len(chosen), seed, reference.features.name, task=task
        )
        if (row := _find(read_rows(run.path), question)) is None:
            pipeline = cast(Any, run.task).pipeline().to(run.device)
            how = Painting(cast(PipelineSampler, sampler), guidance, seed=run.seed(seed))
            parts = inpaint_parts(pipeline, _captioned(data, captions, chosen, how.batch_size), len(chosen), mask, how)
            values = torch.cat([reference.embed(painted) for painted in parts])
            found = {"calls": int(str(sampler)), **score_features(values, reference).as_dict()}
            row = _keep(run, {**asdict(question), **found, **_warning(reference, len(chosen))})
        answers.append({**row, **_warning(reference, len(chosen))})
    return answers


def _captioned(data: Images, captions: Sequence[str], chosen: Tensor, size: int) -> Iterator[tuple[Tensor, list[str]]]:
    """Some images with their captions, in parts."""
    for part in chosen.split(size):
        yield data.batch(part)[0], [captions[int(index)] for index in part]


def _keep(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    """Adds a row to those beside the run."""
    path = run.path / FILE
    rows, whole = _rows(path)
    if not whole:
        say(f"warning: {path} is not as it was written: what cannot be read is measured again, and a copy is kept.")
        set_aside(path)
    write_json(path, {"scores": [*rows, row]})
    return row


def sample_count(asked: int, data: Images) -> int:
    """How many images to draw for a score: as many as asked for, or for 0 as many as the data has, up to a limit.

    Raises:
        InputError: If that is fewer than four.
    """
    count = asked or min(len(data), LARGEST_SAMPLE)
    check_count(count)
    return count


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The measurements kept beside a run; what is not as it was written is passed over, and measured again."""
    return _rows(run / FILE)[0]


def _rows(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The rows that are as they were written, and whether that is all that the file holds."""
    try:
        rows = check_record(read_json(path), {}, path, ("scores",))["scores"]
        check_list(rows, "scores", path, lambda row: True, "rows")
    except FileNotFoundError:
        return [], True
    except Unfit:
        return [], False
    whole = [row for row in rows if _is_row(row)]
    return whole, len(whole) == len(rows)


def _is_row(row: Any) -> bool:
    """Whether a row is a question with its answer."""
    try:
        required = [name for name, kind in kinds(Question).items() if kind.default is MISSING]
        check_record(row, {**kinds(Question), **ANSWER}, "", [*required, *list(ANSWER)[:5]])
    except Unfit:
        return False
    return True


def _find(rows: list[dict[str, Any]], question: Question) -> dict[str, Any] | None:
    wanted = asdict(question)
    return next((row for row in rows if wanted.items() <= (AT_DEFAULT | row).items()), None)
