"""The spellings of samplers on the command line: a method, and a list of numbers of network calls."""

from __future__ import annotations

from typing import Literal, cast

from immiscible.errors import InputError
from immiscible.samplers.consistency import Multistep
from immiscible.samplers.diffusion import DiffusionSampler
from immiscible.samplers.flow import Solver
from immiscible.samplers.pipeline import PipelineSampler, Scheduler

AnySampler = Solver | DiffusionSampler | Multistep | PipelineSampler
# The methods of each task, the first of which is meant by "auto".
METHODS = {
    "flow": ("euler", "heun"),
    "ddim": ("ddim", "ddpm"),
    "consistency": ("multistep",),
    "stable-diffusion": ("ddim", "pndm", "dpm++", "euler"),
}


def parse_samplers(task: str, nfe: str, method: str = "auto", eta: float = 0.0) -> list[AnySampler]:
    """Reads a list such as ``2,5,10,50,adaptive``.

    Arguments:
        task: The task: ``flow``, ``ddim``, ``consistency`` or ``stable-diffusion``.
        nfe: Numbers of network calls, separated by commas; for flows also ``adaptive``.
        method: One of the task's methods, or ``auto`` for its first.
        eta: The share of fresh noise of ``ddim``, for the task ``ddim``.

    Raises:
        InputError: If the method is not one of the task's, or a number is out of range.
    """
    method = METHODS[task][0] if method == "auto" else method
    if method not in METHODS[task]:
        raise InputError(f"--sampler must be one of {', '.join(METHODS[task])} for {task}, got {method}.")
    if eta and (task, method) != ("ddim", "ddim"):
        raise InputError(f"--eta needs the sampler ddim, got {eta:g} with {method}.")
    samplers = [_sampler(task, word.strip(), method, eta) for word in nfe.split(",")]
    if len({str(sampler) for sampler in samplers}) < len(samplers):
        raise InputError(f"--nfe must list different numbers, got {nfe}.")
    return samplers


def _sampler(task: str, word: str, method: str, eta: float) -> AnySampler:
    if word == "adaptive" and task == "flow":
        return Solver("adaptive")
    if not word.isdecimal():
        also = " or adaptive, such as 2,5,10,adaptive" if task == "flow" else ", such as 1,2,10"
        raise InputError(f"--nfe must list whole numbers{also}, got {word!r}.")
    match task:
        case "flow":
            return Solver(cast(Literal["euler", "heun"], method), int(word))
        case "ddim":
            return DiffusionSampler(cast(Literal["ddim", "ddpm"], method), int(word), eta)
        case "consistency":
            return Multistep(int(word))
        case _:
            return PipelineSampler(cast(Scheduler, method), int(word))
