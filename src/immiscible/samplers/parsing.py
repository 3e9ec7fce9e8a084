"""The spellings of samplers on the command line: a method, and a list of numbers of network calls."""

from __future__ import annotations

from immiscible.config.systems import SYSTEMS, System, imported, system
from immiscible.config.values import Range, quoted, told
from immiscible.errors import InputError
from immiscible.samplers.base import Sampler

# Network calls of a sample, and how many digits of them are read.
CALLS = Range(1, 10**5, "each image would take hours")
LONGEST = 1000


def parse_samplers(task: str, nfe: str, method: str = "auto", eta: float = 0.0) -> list[Sampler]:
    """Reads a list such as ``2,5,10,50,adaptive``.

    Arguments:
        task: The name of a system, such as ``flow``.
        nfe: Numbers of network calls, separated by commas; for flows also ``adaptive``.
        method: One of the system's methods, or ``auto`` for its first.
        eta: The share of fresh noise, for the method that takes one.

    Raises:
        InputError: If the method is not one of the system's, or a number is out of range.
    """
    row = system(task)
    method = row.methods[0] if method == "auto" else method
    if method not in row.methods:
        raise InputError(f"--sampler must be one of {', '.join(row.methods)} for {task}, got {method}.")
    if eta and method != row.eta:
        takers = " or ".join(other.eta for other in SYSTEMS.values() if other.eta)
        raise InputError(f"--eta needs the sampler {takers}, got {eta:g} with {method}.")
    try:
        samplers = [_sampler(row, word.strip(), method, {"eta": eta} if eta else {}) for word in nfe.split(",")]
    except InputError as error:
        raise InputError(str(error).replace("`nfe`", "--nfe").replace("`eta`", "--eta")) from None
    if len({str(sampler) for sampler in samplers}) < len(samplers):
        raise InputError(f"--nfe must list different numbers, got {told(nfe)}.")
    return samplers


def _sampler(row: System, word: str, method: str, settings: dict[str, float]) -> Sampler:
    make = imported(row.sampler)
    if word in row.numberless:
        return make(word)
    if not word.isdecimal() or len(word) > LONGEST:
        also = "".join(f" or {other}" for other in row.numberless)
        example = ",".join(["2,5,10", *row.numberless]) if row.numberless else "1,2,10"
        raise InputError(f"--nfe must list whole numbers{also}, such as {example}, got {quoted(word)}.")
    calls = int(word)
    if complaint := CALLS.complaint(calls):
        raise InputError(f"--nfe {complaint}.")
    return make(method, calls, **settings)
