"""``immiscible sample``."""

from __future__ import annotations

from typing import Any

import torch

from immiscible.cli.arguments import Sample
from immiscible.cli.effects import check_sample
from immiscible.cli.images import alone, check_images, fill, is_file, write_file
from immiscible.cli.open_run import guidance_of, is_text_model, open_run, samplers_for, started
from immiscible.cli.results import report
from immiscible.config.systems import system
from immiscible.errors import InputError
from immiscible.runs.open import Run
from immiscible.samplers import Sampler
from immiscible.samplers.starting import AUTO
from immiscible.tasks.base import SAMPLE_BATCH
from immiscible.training.checkpoint import weights_digest


def sample(arguments: Sample) -> None:
    """Draws images from a run."""
    if is_text_model(arguments.run):
        from immiscible.cli.sample_text import sample_text

        sample_text(arguments)
        return
    check_sample(arguments)
    check_images(arguments.out, [arguments.run], arguments.overwrite)
    with alone(arguments.out, arguments.overwrite):
        _sample(arguments)


def _sample(arguments: Sample) -> None:
    """Draws images into a place that is locked."""
    run = open_run(arguments)
    samplers = samplers_for(arguments, run, system(run.config.task).nfe.split(",")[-1])
    if len(samplers) > 1:
        raise InputError(f"--nfe must be one number or adaptive here, got {arguments.nfe}.")
    run = started(arguments, run, samplers)
    labels = torch.tensor(_classes(arguments.classes, run, arguments.num)) if arguments.classes else None
    _draw(arguments, run, samplers[0], labels)


def _draw(arguments: Sample, run: Run, sampler: Sampler, labels: torch.Tensor | None) -> None:
    """Draws images of a run with a sampler."""
    out, guidance = arguments.out, guidance_of(arguments, run)
    start = run.start(arguments.num, arguments.seed, arguments.noise_scale, labels=labels)
    calls, drawn = [], len(start)

    def draw(part: slice) -> torch.Tensor:
        samples = run.sample(start[part], sampler, guidance)
        calls.append(samples.nfe)
        return samples.images.cpu()

    if is_file(out):
        write_file(out, draw(slice(None)), start.labels)
    else:
        drawn = fill(out, len(start), SAMPLE_BATCH, draw, _identity(arguments, run, sampler), arguments.overwrite)
    result = {"out": str(out), "images": len(start), "calls": max(calls, default=0), "step": run.step}
    said = f", {max(calls)} network calls each" if calls else ", which were there"
    report(arguments.json, result | {"drawn": drawn}, f"{out}: {len(start)} images of step {run.step}{said}")


def _identity(arguments: Sample, run: Run, sampler: Sampler) -> dict[str, Any]:
    """What distinguishes a directory of images from others."""
    return {
        "weights": weights_digest(run.path, run.step),
        "num": arguments.num,
        "nfe": str(sampler),
        "sampler": sampler.name,
        "eta": arguments.eta,
        "guidance": guidance_of(arguments, run),
        "noise_scale": arguments.noise_scale,
        **({} if run.starts == str(AUTO) else {"start": run.starts}),
        "classes": arguments.classes,
        "seed": arguments.seed,
    }


def _classes(text: str, run: Run, count: int) -> list[int]:
    words = text.split(",")
    if not all(word.isdecimal() and int(word) < run.classes for word in words):
        allowed = f"numbers below {run.classes}" if run.classes else "left out, since the run is unconditional"
        raise InputError(f"--classes must be {allowed}, got {text}.")
    return [int(words[i % len(words)]) for i in range(count)]
