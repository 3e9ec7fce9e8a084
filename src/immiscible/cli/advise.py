"""``immiscible advise``."""

from __future__ import annotations

import shlex

from immiscible.analysis.advice import Advice, Condition, Wish
from immiscible.analysis.advice import advise as advise_on
from immiscible.cli.analyze import about, measured, say_part
from immiscible.cli.arguments import Advise
from immiscible.cli.results import report
from immiscible.config.systems import system
from immiscible.data.measured import SUFFIXES, Measured
from immiscible.errors import InputError


def advise(arguments: Advise) -> None:
    """Measures data and prints a recommendation."""
    row = system(arguments.system)
    calls = tuple(int(number) for number in arguments.nfe.split(","))
    data = measured(arguments)
    condition = condition_of(data, arguments.conditional or row.prompted, bool(arguments.observations))
    wish = Wish(
        arguments.system,
        condition,
        arguments.batch_size,
        calls,
        arguments.budget_ms,
        arguments.cost_space,
        arguments.seed,
    )
    say_part(data)
    advice = advise_on(data, wish)
    result = {"data": about(data), "condition": condition, **advice.as_dict(), "use": use_of(advice, arguments)}
    report(arguments.json, result, in_words(advice, data, result["use"]), indent=2)


def condition_of(data: Measured, conditional: bool, observed: bool) -> Condition:
    """What a model of the data is conditioned on.

    Arguments:
        data: The data.
        conditional: Whether it is conditioned on what the data have.
        observed: Whether observations were named.

    Raises:
        InputError: If the data have nothing to condition on.
    """
    if observed:
        return "observations"
    if not conditional:
        return "none"
    if data.labels is not None:
        return "classes"
    if data.observations is not None:
        return "observations"
    if data.captions:
        return "texts"
    raise InputError(f"--conditional needs labels, observations or captions, got {data.name} without any.")


def use_of(advice: Advice, arguments: Advise) -> str:
    """How the recommendation is used: a command, or a line of code where `train` does not read the data."""
    if arguments.data.lower().endswith(SUFFIXES) and arguments.image_size is None:
        labels = ", labels=labels" if advice.within_classes else ""
        centred = "x - mean" if advice.coupling.startswith("knn") and advice.cost_space == "centered" else "x"
        return f'noise = immiscible.coupling("{advice.coupling}")({centred}, noise{labels})'
    words = ["immiscible", "train", arguments.system, "--data", arguments.data, "--coupling", advice.coupling]
    words += ["--batch-size", str(arguments.batch_size)]
    words += ["--image-size", str(arguments.image_size)] if arguments.image_size else []
    words += ["--cost-space", advice.cost_space] if advice.coupling != "independent" else []
    words += ["--pool", str(advice.pool)] if advice.pool else []
    if system(arguments.system).prompted:
        words += ["--within-classes"] if advice.within_classes else []
    elif arguments.conditional and not arguments.observations:
        words.append("--conditional")
    return shlex.join([*words, "--out", "RUN"])


def in_words(advice: Advice, data: Measured, use: str) -> str:
    """The recommendation as text."""
    pool = f", in pools of {advice.pool:,}" if advice.pool else ""
    within = ", within classes" if advice.within_classes else ""
    shape = "x".join(map(str, data.shape))
    lines = [
        f"{advice.coupling}{within}{pool}",
        f"  for       {data.name}: {data.total:,} data of shape {shape}; {advice.when}",
        f"  because   {advice.because}",
        *(f"  measured  {figure}" for figure in advice.figures),
        f"  costs     {advice.cost_ms:.2f} ms a step on this machine, if nothing runs in the background",
        *(f"  watch     {line}" for line in advice.watch),
        *([f"  see       docs/results: {', '.join(advice.evidence)}"] if advice.evidence else []),
        f"  use       {use}",
    ]
    return "\n".join(lines)
