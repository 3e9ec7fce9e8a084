"""Where samples start, as flags and settings spell it: by which law, and at which time between noise and data.

``auto`` is where the run's own samples start, ``normal`` is N(0, I), and ``source`` is the law of the noise that the
run was trained on. ``components:32@0.6`` is a control without a coupling: at the time 0.6
the noise is mixed with data from a prior that no network has learnt, a Gaussian mixture along 32 principal components
of the data, and the sampler goes on from there. ``components:32`` alone names that prior.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from immiscible.config.systems import SYSTEMS, System
from immiscible.config.values import quoted
from immiscible.errors import InputError
from immiscible.samplers.base import Sampler

# Laws of the noise that a run can start from, all at the time 0.
LAWS = ("auto", "normal", "source")
# As many principal components as a prior may have, which is what can be fitted.
MOST_COMPONENTS = 1024
PRIOR = r"components:([1-9]\d{0,5})"


@dataclass(frozen=True)
class Starting:
    """Where samples start.

    Attributes:
        law: The law of the noise, one of ``LAWS``.
        components: The principal components of the prior of the data that is mixed in; 0 for none.
        time: The time at which it is, in [0, 1): 0 is noise, and would be data at 1.
    """

    law: str = "auto"
    components: int = 0
    time: float = 0.0

    def __str__(self) -> str:
        return f"components:{self.components}@{self.time:g}" if self.components else self.law


AUTO = Starting()


def parse_start(text: str) -> Starting:
    """Reads a spelling such as ``auto`` or ``components:32@0.6``.

    Raises:
        InputError: If it is none.
    """
    if text in LAWS:
        return Starting(text)
    match = re.fullmatch(rf"{PRIOR}@(0?\.\d{{1,9}})", text)
    if match is None or not float(match[2]) or int(match[1]) > MOST_COMPONENTS:
        laws = ", ".join(LAWS)
        raise InputError(
            f"must be {laws}, or at most {MOST_COMPONENTS:,} components and a time between 0 and 1 such as "
            f"components:32@0.6, got {quoted(text)}"
        )
    return Starting(components=int(match[1]), time=float(match[2]))


def parse_prior(text: str) -> int:
    """The number of components of a prior that is spelled as ``components:32``.

    Raises:
        InputError: If it is spelled otherwise.
    """
    match = re.fullmatch(PRIOR, text)
    if match is None or int(match[1]) > MOST_COMPONENTS:
        raise InputError(
            f"a prior must be spelled as components:32, with at most {MOST_COMPONENTS:,}, got {quoted(text)}."
        )
    return int(match[1])


def check_start(starting: Starting, row: System, samplers: Sequence[Sampler]) -> None:
    """Checks that samplers can start there.

    Arguments:
        starting: Where samples start.
        row: The system of the run.
        samplers: How to sample.

    Raises:
        InputError: If one cannot.
    """
    unfit = [sampler.name for sampler in samplers if sampler.name not in row.midway]
    if starting.time and unfit:
        able = ", ".join(f"{'/'.join(other.midway)} for {other.runs}" for other in SYSTEMS.values() if other.midway)
        raise InputError(
            f"a start at the time {starting.time:g} needs a sampler that goes on from there without fresh noise, which "
            f"are {able}, got {unfit[0]} for {row.runs}: leave the start at auto."
        )
