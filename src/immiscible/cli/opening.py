"""Opens the run that a command samples from."""

from __future__ import annotations

import math

import torch

from immiscible.cli.arguments import Evaluate, FromRun, Sample
from immiscible.errors import InputError
from immiscible.samplers import AnySampler, parse_samplers
from immiscible.tasks import runs
from immiscible.training.loop import check_device


def open_run(arguments: FromRun) -> runs.Run:
    """Opens a run as the flags ask for."""
    if not 0 < arguments.noise_scale < math.inf:
        raise InputError(f"--noise-scale must be positive and finite, got {arguments.noise_scale}.")
    run = runs.load_run(arguments.run, step=arguments.step, device=device_named(arguments.device))
    if arguments.guidance not in (None, 1) and not run.conditional:
        raise InputError(f"--guidance needs a class-conditional run, got {arguments.run}: train with --conditional.")
    return run


def guidance_of(arguments: FromRun, run: runs.Run) -> float:
    """The weight of guidance that the flags ask for, or else the run's own."""
    return run.guidance if arguments.guidance is None else arguments.guidance


def samplers_for(arguments: Sample | Evaluate, run: runs.Run, default: str) -> list[AnySampler]:
    """The samplers that the flags ask for, at the default numbers of network calls where they name none."""
    return parse_samplers(run.config.task, arguments.nfe or default, arguments.sampler, arguments.eta)


def device_named(name: str) -> str:
    """The device of that name, if it is there; auto is the GPU where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(name)
    return name
