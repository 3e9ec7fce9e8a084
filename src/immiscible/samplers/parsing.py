"""The spellings of samplers on the command line: a method, and a list of numbers of network calls."""

from __future__ import annotations

from typing import Literal, cast

from immiscible.config.values import Range, quoted, told
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
# Network calls of a sample, and how many digits of them are read.
CALLS = Range(1, 10**5, "each image would take hours")
LONGEST = 1000


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
    try:
        samplers = [_sampler(task, word.strip(), method, eta) for word in nfe.split(",")]
    except InputError as error:
        raise InputError(str(error).replace("`nfe`", "--nfe").replace("`eta`", "--eta")) from None
    if len({str(sampler) for sampler in samplers}) < len(samplers):
        raise InputError(f"--nfe must list different numbers, got {told(nfe)}.")
    return samplers


def _sampler(task: str, word: str, method: str, eta: float) -> AnySampler:
    if word == "adaptive" and task == "flow":
        return Solver("adaptive")
    if not word.isdecimal() or len(word) > LONGEST:
        also = " or adaptive, such as 2,5,10,adaptive" if task == "flow" else ", such as 1,2,10"
        raise InputError(f"--nfe must list whole numbers{also}, got {quoted(word)}.")
    calls = int(word)
    if complaint := CALLS.complaint(calls):
        raise InputError(f"--nfe {complaint}.")
    match task:
        case "flow":
            return Solver(cast(Literal["euler", "heun"], method), calls)
        case "ddim":
            return DiffusionSampler(cast(Literal["ddim", "ddpm"], method), calls, eta)
        case "consistency":
            return Multistep(calls)
        case _:
            return PipelineSampler(cast(Scheduler, method), calls)
