"""Opens the run that a command samples from."""

from __future__ import annotations

import torch

from immiscible.cli.arguments import FromRun
from immiscible.errors import InputError
from immiscible.tasks import runs


def open_run(arguments: FromRun) -> runs.Run:
    """Opens a run as the flags ask for."""
    run = runs.load_run(arguments.run, step=arguments.step, device=device_named(arguments.device))
    if arguments.guidance != 1 and not run.classes:
        raise InputError(f"--guidance needs a class-conditional run, got {arguments.run}: train with --conditional.")
    return run


def device_named(name: str) -> str:
    """The device of that name, if it is there; auto is the GPU where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        raise InputError(f"--device must be available here, got {name}: try cpu.")
    return name
