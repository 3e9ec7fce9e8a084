"""The command line: finds the command, parses its flags, calls one function. Only running a command imports torch."""

from __future__ import annotations

import difflib
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from immiscible.cli.exit import (
    WITH_LESS_MEMORY,
    in_group,
    is_loss,
    is_out_of_memory,
    leave,
    loss_of,
    tell,
    tell_refusal,
)
from immiscible.cli.results import flush_results, make_printable, silence_results
from immiscible.config.systems import SYSTEMS, System, imported, offered, system
from immiscible.config.values import quoted
from immiscible.errors import InputError, ToldError, one_line
from immiscible.training.signals import ended_by_signals, ending_of


@dataclass(frozen=True)
class Command:
    """A command: what it does, the dataclass of its flags, and the function that takes it (both ``module:name``)."""

    summary: str
    arguments: str
    runner: str


ARGUMENTS = "immiscible.cli.arguments"


def _training(row: System) -> Command:
    return Command(row.summary, f"{ARGUMENTS}:train {row.name}", "immiscible.cli.train:train")


def _comparing(row: System) -> Command:
    summary = f"Train several couplings of {row.title} side by side and report what they change."
    return Command(summary, f"{ARGUMENTS}:compare {row.name}", "immiscible.cli.compare:compare")


# The commands that each system has.
FAMILIES = {"train": _training, "compare": _comparing}
COMMANDS = {
    **{(word, row.name): command(row) for word, command in FAMILIES.items() for row in SYSTEMS.values()},
    ("make-tiny-sd",): Command(
        "Make a tiny pipeline of Stable Diffusion's classes, with a VAE trained on some data.",
        "immiscible.cli.arguments:MakeTiny",
        "immiscible.cli.tiny:make_tiny",
    ),
    ("sample",): Command(
        "Draw images from a trained run.", "immiscible.cli.arguments:Sample", "immiscible.cli.sample:sample"
    ),
    ("inpaint",): Command(
        "Draw masked parts of images again with a trained Stable Diffusion.",
        "immiscible.cli.arguments:Inpaint",
        "immiscible.cli.inpaint:inpaint",
    ),
    ("evaluate",): Command(
        "Score a trained run: FID, KID, precision and recall.",
        "immiscible.cli.arguments:Evaluate",
        "immiscible.cli.evaluate:evaluate",
    ),
    ("export",): Command(
        "Write a trained run as a pipeline of diffusers, with a model card.",
        "immiscible.cli.arguments:Export",
        "immiscible.cli.export:export",
    ),
    ("describe",): Command(
        "Say what a coupling moves, whether the noise law stays exact, and what it costs.",
        "immiscible.cli.arguments:Describe",
        "immiscible.cli.describe:describe",
    ),
    ("analyze", "data"): Command(
        "Measure what couplings do to the noise of some data, without training, and write analysis.html.",
        "immiscible.cli.arguments:AnalyzeData",
        "immiscible.cli.analyze:analyze_data",
    ),
    ("analyze", "run"): Command(
        "Measure what trained runs have learnt, side by side, and write analysis.html.",
        "immiscible.cli.arguments:AnalyzeRun",
        "immiscible.cli.analyze_run:analyze_run",
    ),
    ("advise",): Command(
        "Measure some data and recommend a coupling, with the reasons.",
        "immiscible.cli.arguments:Advise",
        "immiscible.cli.advise:advise",
    ),
    ("make-pusht",): Command(
        "Make demonstrations of Push-T with a planner, to train policies on.",
        "immiscible.cli.arguments:MakePushT",
        "immiscible.cli.make_pusht:make_pusht",
    ),
    ("doctor",): Command(
        "Show what a report of a fault should say: versions, devices, launcher, caches.",
        "immiscible.cli.doctor:Doctor",
        "immiscible.cli.doctor:doctor",
    ),
}


def program() -> NoReturn:
    """The program ``immiscible``: runs :func:`main` and ends the process with its status, see :mod:`.ending`."""
    try:
        status = main()
    except Exception:
        # The interpreter prints it for a process on its own.
        if not in_group():
            raise
        traceback.print_exc()
        status = 1
    leave(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0, 2 for bad input, 1 for failed training, 128 + n for signal n."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    make_printable()
    try:
        with ended_by_signals():
            status = dispatch(words)
        flush_results()
        return status
    except ToldError as error:
        return tell(str(error), error.exit_status)
    except KeyboardInterrupt as error:
        return tell(*ending_of(error))
    except (RuntimeError, MemoryError) as error:
        if is_loss(error):
            return tell(loss_of(error), 1)
        if is_out_of_memory(error):
            return tell(f"{one_line(error, 120)}: {WITH_LESS_MEMORY}.", 1)
        raise
    except BrokenPipeError:
        # Who read our output has gone, as `head` does; nothing is left to be said to them, not even at exit.
        silence_results()
        return 141
    except OSError as error:
        return tell_refusal(error)


def dispatch(words: list[str]) -> int:
    """Finds the command that the words begin with, and runs it with the rest."""
    if not words or words[0] in ("-h", "--help"):
        print(overview(COMMANDS))
        return 0
    if words[0] == "--version":
        from immiscible.cli.version import version

        print(version())
        return 0
    for name, command in COMMANDS.items():
        if tuple(words[: len(name)]) == name:
            return run(name, command, words[len(name) :])
    family = {name: command for name, command in COMMANDS.items() if name[0] == words[0]}
    if command := FAMILIES.get(words[0]):
        # Those that were registered since, or that other distributions offer.
        family |= {(words[0], name): command(system(name)) for name in (*SYSTEMS, *offered())}
        if found := family.get(tuple(words[:2])):
            return run((words[0], words[1]), found, words[2:])
    if not family:
        raise _unknown(words[:1], dict.fromkeys(name[0] for name in COMMANDS))
    if len(words) > 1 and words[1] not in ("-h", "--help"):
        raise _unknown(words[:2], [" ".join(name) for name in family])
    print(overview(family))
    return 0


def _unknown(words: list[str], known: Iterable[str]) -> InputError:
    given, known = " ".join(words), list(known)
    near = difflib.get_close_matches(given, known, 1)
    hint = f": is {near[0]} meant?" if near else "."
    return InputError(f"unknown command {quoted(given)}: one of {', '.join(known)}{hint}")


def run(name: tuple[str, ...], command: Command, words: list[str]) -> int:
    """Parses the flags of a command and calls its function."""
    try:
        from immiscible.cli.parsing import parse

        arguments = parse(_resolve(command.arguments), "immiscible " + " ".join(name), command.summary, words)
        _resolve(command.runner)(arguments)
    except ModuleNotFoundError as error:
        missing = (error.name or "immiscible").partition(".")[0]
        if missing == "immiscible":
            raise
        raise InputError(
            f"the command line needs {missing}, which is not installed: `pip install 'immiscible-diffusion[train]'`."
        ) from error
    return 0


def overview(commands: dict[tuple[str, ...], Command]) -> str:
    """The list of commands."""
    width = max(len(" ".join(name)) for name in commands)
    lines = [f"  {' '.join(name):<{width}}  {command.summary}" for name, command in commands.items()]
    return "\n".join(
        ["usage: immiscible COMMAND [flags]", "", *lines, "", "immiscible COMMAND --help lists the flags of a command."]
    )


# Under a name of its own, since tests put another in its place.
_resolve = imported
