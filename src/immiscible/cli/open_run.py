"""Opens the run that a command samples from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from immiscible.cli.arguments import Evaluate, FromRun, Sample
from immiscible.cli.effects import check_step
from immiscible.config.systems import is_system, system
from immiscible.errors import InputError
from immiscible.runs.directory import CONFIG, read_config
from immiscible.runs.open import Run, load_run
from immiscible.runs.prior import Prior, begun
from immiscible.samplers import Sampler, parse_samplers
from immiscible.samplers.starting import check_start, parse_start
from immiscible.seeds import SEED_BITS, seed_of
from immiscible.tasks.stable_diffusion import pipelines
from immiscible.tasks.stable_diffusion.folder import fingerprint
from immiscible.training.checkpoint import weights_digest
from immiscible.training.launcher import device_named


def open_run(arguments: FromRun) -> Run:
    """Opens a run as the flags ask for."""
    run = load_run(arguments.run, step=arguments.step, device=device_named(arguments.device))
    if arguments.guidance not in (None, 1) and not run.conditional:
        raise InputError(f"--guidance needs a class-conditional run, got {arguments.run}: train with --conditional.")
    return run


def guidance_of(arguments: FromRun, run: Run) -> float:
    """The weight of guidance that the flags ask for, or else the run's own."""
    return run.guidance if arguments.guidance is None else arguments.guidance


def samplers_for(arguments: Sample | Evaluate, run: Run, default: str) -> list[Sampler]:
    """The samplers that the flags ask for, at the default numbers of network calls where they name none."""
    return parse_samplers(run.config.task, arguments.nfe or default, arguments.sampler, arguments.eta)


def started(arguments: Sample | Evaluate, run: Run, samplers: list[Sampler], moved: str = "") -> Run:
    """A run whose samples start where the flags ask for.

    Arguments:
        arguments: The flags.
        run: The run.
        samplers: How it is sampled.
        moved: Where its data is now, if that is not where it was.
    """
    starting = parse_start(arguments.start)
    check_start(starting, system(run.config.task), samplers)
    return begun(run, starting, lambda components, by_class: Prior(run.data(moved), components, by_class))


def is_text_model(path: Path) -> bool:
    """Whether a directory holds a run of Stable Diffusion, or a pipeline of diffusers."""
    if pipelines.is_pipeline(path):
        return True
    task = read_config(path).get("task", "") if (path / CONFIG).is_file() else ""
    return is_system(task) and system(task).prompted


@dataclass(frozen=True)
class TextModel:
    """What text-to-image commands need of a run or a pipeline.

    Attributes:
        pipeline: The pipeline, with its own scheduler.
        size: Height and width of its images.
        origin: What identifies its weights.
        prompts: Prompts of its own.
        template: The caption of a class.
        guidance: The weight of guidance unless another is given.
        seed_bits: How much of a derived seed its generators use.
    """

    pipeline: Any
    size: tuple[int, int]
    origin: dict[str, Any]
    prompts: tuple[str, ...]
    template: str
    guidance: float
    seed_bits: int = SEED_BITS

    def seed(self, seed: int) -> int:
        """A seed as its images are drawn from it, see :meth:`immiscible.runs.open.Run.seed`."""
        return seed_of(self.seed_bits, seed)


def open_text_model(path: Path, step: int | None, device: torch.device | str) -> TextModel:
    """Opens a run of Stable Diffusion, or a pipeline of diffusers."""
    if pipelines.is_pipeline(path):
        check_step(path, step)
        pipeline = pipelines.open_pipeline(path).to(device)
        side = pipelines.image_size(pipeline)
        return TextModel(pipeline, (side, side), {"model": fingerprint(path)}, (), "{}", 7.5)
    run = load_run(path, step=step, device=device)
    if not system(run.config.task).prompted:
        raise InputError(f"RUN must be a run of Stable Diffusion or a pipeline of diffusers, got {path}.")
    task: Any = run.task
    pipeline = task.pipeline().to(device)
    origin = {"model": read_config(path)["model_fingerprint"], "weights": weights_digest(path, run.step)}
    config: Any = run.config
    size, prompts = (run.shape[1], run.shape[2]), task.facts.prompts
    return TextModel(pipeline, size, origin, prompts, config.caption_template, config.guidance, run.seed_bits)
