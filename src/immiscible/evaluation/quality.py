"""The quality of a trained run at several numbers of network calls, kept beside the run and measured only once.

Images are drawn in parts on the device of the run. Of each part only its features stay, on the host, so the peak of
memory on the device is that of one part, :attr:`immiscible.runs.open.Run.at_once` images, however many are scored.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from immiscible.config.metric import IMAGE_METRICS, Metric
from immiscible.data import Images
from immiscible.data.images import evenly_spaced
from immiscible.evaluation.clip import ClipMeter, ClipScore
from immiscible.evaluation.features import default_cache, features_for
from immiscible.evaluation.kept import Question, answer
from immiscible.evaluation.ladder import Facts, faults_seen
from immiscible.evaluation.scores import Reference, check_count, score_features
from immiscible.io.png import encode_grid
from immiscible.runs.open import Model, Run
from immiscible.samplers import PipelineSampler, Sampler

# Apart from the seeds of training, so that no run is scored on noise that it was trained on.
SAMPLING_SEED = 10_000
LARGEST_SAMPLE = 10_000
GRID = 36


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


@dataclass(frozen=True)
class ImageScorer:
    """Scores images by the features of the data, see :class:`~immiscible.evaluation.scorer.RunScorer`.

    Attributes:
        reference: The data, as features.
        samples: The number of images behind each score.
        faults: How the features score known faults, see :func:`~immiscible.evaluation.ladder.faults_seen`.
        clip: Scores how well samples fit their prompts, where there are prompts.
    """

    reference: Reference
    samples: int
    faults: Facts = field(default_factory=dict)
    clip: ClipScore | None = None

    @classmethod
    def of(cls, asked: Any, data: Images, device: torch.device) -> ImageScorer:
        """The scorer of so many images, in the features that are asked for.

        Raises:
            InputError: If there are too few samples or data for a score.
        """
        samples = sample_count(asked.samples, data)
        features = features_for(data, asked.features, device=device)
        return cls(Reference(features, data), samples, faults_seen(features, data, samples, default_cache()))

    @property
    def features(self) -> str:
        """The name of the features."""
        return self.reference.features.name

    @property
    def metrics(self) -> Sequence[Metric]:
        """Those of images."""
        return IMAGE_METRICS

    @property
    def doubts(self) -> str | None:
        """Why scores of that many images tell little, where they do."""
        return self.reference.doubts(self.samples)

    def score(
        self, run: Model, samplers: Sequence[Sampler], guidance: float = 1.0, noise_scale: float = 1.0
    ) -> list[dict[str, Any]]:
        """A row for each sampler, see :func:`evaluate_run`."""
        return evaluate_run(run, self.reference, samplers, Trial(self.samples, guidance, noise_scale), self.clip)

    def picture(self, run: Model, sampler: Sampler, noise_scale: float = 1.0) -> bytes:
        """A grid of samples."""
        start = run.start(GRID, SAMPLING_SEED, noise_scale)
        return encode_grid(run.sample(start, sampler, run.guidance).images.cpu())


def evaluate_run(
    run: Model,
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
        question = Question(
            run.step, str(sampler), sampler.name, guidance, samples, seed, features, noise_scale, name, start=run.starts
        )
        measure = functools.partial(_measure, run, reference, sampler, question, clip)
        answers.append({**answer(run, question, measure), **_warning(reference, samples)})
    return answers


def _measure(
    run: Model, reference: Reference, sampler: Sampler, question: Question, clip: ClipScore | None
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
    scores = score_features(torch.cat(values), reference).as_dict()
    return {"calls": calls, **scores, **extra, **_warning(reference, question.samples)}


def _draw(
    run: Model, reference: Reference, sampler: Sampler, question: Question, numbers: range, meter: ClipMeter | None
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
        how = Painting(cast(PipelineSampler, sampler), guidance, seed=run.seed(seed))

        def paint(how: Painting = how) -> dict[str, Any]:
            pipeline = cast(Any, run.task).pipeline().to(run.device)
            parts = inpaint_parts(pipeline, _captioned(data, captions, chosen, how.batch_size), len(chosen), mask, how)
            values = torch.cat([reference.embed(painted) for painted in parts])
            scores = score_features(values, reference).as_dict()
            return {"calls": int(str(how.sampler)), **scores, **_warning(reference, len(chosen))}

        answers.append({**answer(run, question, paint), **_warning(reference, len(chosen))})
    return answers


def _captioned(data: Images, captions: Sequence[str], chosen: Tensor, size: int) -> Iterator[tuple[Tensor, list[str]]]:
    """Some images with their captions, in parts."""
    for part in chosen.split(size):
        yield data.batch(part)[0], [captions[int(index)] for index in part]


def sample_count(asked: int, data: Images) -> int:
    """How many images to draw for a score: as many as asked for, or for 0 as many as the data has, up to a limit.

    Raises:
        InputError: If that is fewer than four.
    """
    count = asked or min(len(data), LARGEST_SAMPLE)
    check_count(count)
    return count
