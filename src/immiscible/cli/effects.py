"""Flags that would change nothing for the run that a command is given: each is refused, with what it needs.

What a flag needs of another flag stands beside its field, as :class:`immiscible.config.values.Needs`. Here is what it
needs of the run, which only the run itself knows. A flag at its default is taken as not given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from immiscible.cli.arguments import Evaluate, Sample
from immiscible.config.systems import System
from immiscible.config.values import flag_of, kinds, told
from immiscible.errors import InputError

# Of `sample`, what only Stable Diffusion has.
OF_TEXT_MODELS = ("prompts", "steps", "scheduler", "batch_size", "format")
# Of `evaluate`, what is said of images, and what of policies.
OF_IMAGES = ("num", "features", "guidance")
OF_POLICIES = ("episodes", "video", "modes", "last")


def given(arguments: Any, *names: str) -> list[str]:
    """The flags among some that are not at their defaults."""
    known = kinds(type(arguments))
    return [flag_of(name) for name in names if getattr(arguments, name) != known[name].default]


def check_sample(arguments: Sample) -> None:
    """Checks the flags of ``sample`` for a run that is none of Stable Diffusion."""
    if found := given(arguments, *OF_TEXT_MODELS):
        raise InputError(
            f"{' and '.join(found)} need a run of Stable Diffusion, got {arguments.run}: use --nfe and --sampler."
        )


def check_sample_text(arguments: Sample, one_file: bool) -> None:
    """Checks the flags of ``sample`` for Stable Diffusion.

    Arguments:
        arguments: The flags.
        one_file: Whether all images go into one file.
    """
    if given(arguments, "start"):
        raise InputError(f"--start must be left out for Stable Diffusion, got {told(arguments.start)}.")
    if "," in arguments.nfe:
        raise InputError(f"--nfe must be one number here, got {told(arguments.nfe)}.")
    _exclude(arguments, "nfe", "steps", "", 0)
    _exclude(arguments, "sampler", "scheduler", "auto", "auto")
    if one_file and given(arguments, "format"):
        raise InputError(f"--format must be left out where --out is one file, got {told(arguments.out)}.")


def check_evaluate(arguments: Evaluate, row: System) -> None:
    """Checks the flags of ``evaluate``.

    Arguments:
        arguments: The flags.
        row: The system of the run.
    """
    if not row.prompted and given(arguments, "clip", "task"):
        raise InputError(f"--clip and --task need a run of Stable Diffusion, got {arguments.run}.")
    if row.scored != "images" and (found := given(arguments, *OF_IMAGES)):
        raise InputError(f"{' and '.join(found)} must be left out for {row.runs}, got {arguments.run}.")
    if row.scored != "episodes" and (found := given(arguments, *OF_POLICIES)):
        raise InputError(f"{' and '.join(found)} need the run of a policy, got {arguments.run}: use --num.")
    if arguments.task != "generate" and (found := given(arguments, "clip", "noise_scale")):
        named = " and ".join(found)
        raise InputError(f"{named} must be left out with --task {arguments.task}, which paints images of the data.")


def check_policy(arguments: Evaluate, data: str) -> None:
    """Checks the flags of ``evaluate`` for a policy of the fork, which is in no simulator."""
    if found := given(arguments, "video", "modes"):
        raise InputError(f"{' and '.join(found)} need a policy in Push-T, got one of {told(data)}.")


def check_step(path: Path, step: int | None) -> None:
    """Checks that no checkpoint is asked for of what has none."""
    if step is not None:
        raise InputError(f"--step must be left out for a pipeline, which has no checkpoints, got {step} with {path}.")


def _exclude(arguments: Any, one: str, other: str, unset: Any, other_unset: Any) -> None:
    first, second = getattr(arguments, one), getattr(arguments, other)
    if first != unset and second != other_unset and str(first) != str(second):
        raise InputError(f"{flag_of(one)} and {flag_of(other)} say the same, got {told(first)} and {told(second)}.")
