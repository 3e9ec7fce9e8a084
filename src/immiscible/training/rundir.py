"""The run directory: who owns it, and whether a command may go on in it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from immiscible.errors import InputError
from immiscible.training.config import RunConfig, as_json, differing_keys
from immiscible.training.files import write_json
from immiscible.training.outputs import check_output, folder_of

CONFIG = "config.json"
SUMMARY = "summary.json"
# What samples of a text-conditional run are drawn for, a line each.
PROMPTS = "prompts.txt"
# Facts of runs that do not say so.
BEFORE = {"processes": 1}


def open_run(config: RunConfig, facts: dict[str, Any]) -> None:
    """Starts a run in its directory, or goes on with the one that is there, see :func:`check_run`."""
    values = check_run(config, facts)
    if values is None:
        return
    if not _has_checkpoint(config.out):
        _remove_pictures(config.out)
    write_json(config.out / CONFIG, values)


def _has_checkpoint(out: Path) -> bool:
    """Whether a run has come as far as a checkpoint, which may be damaged by now."""
    return any((out / "checkpoints").glob("step-*"))


def _remove_pictures(out: Path) -> None:
    """Removes the samples of a start that led to no checkpoint: the one that follows may not draw the same ones."""
    for picture in (out / "samples").glob("step-*.png"):
        picture.unlink()


def check_run(config: RunConfig, facts: dict[str, Any]) -> dict[str, Any] | None:
    """Checks that a directory is free for a run, or that the run there is the same one.

    Arguments:
        config: The configuration, with its directory.
        facts: What else identifies the run (the task, the fingerprint of the data), and is kept with it.

    Returns:
        What the run's ``config.json`` must become, or None if it is right already.

    Raises:
        InputError: If the directory holds a run with another configuration, or something that is no run. A run that
            has no checkpoint yet may change.
    """
    check_place(config)
    values = {**BEFORE, **facts, **as_json(config)}
    if not (config.out / CONFIG).exists():
        return values
    saved = {**BEFORE, **_defaults(config), **read_config(config.out)}
    if not _has_checkpoint(config.out):
        return None if values == saved else values
    _check_processes(config.out, saved["processes"], values["processes"])
    differing = differing_keys(values, saved)
    longer = differing == ["steps"] and config.steps > saved["steps"]
    if longer and config.extend:
        return {**saved, "steps": config.steps}
    if differing:
        changes = ", ".join(f"{key} was {saved.get(key)!r}, is {values.get(key)!r}" for key in differing)
        hint = "add --extend to train longer" if longer else "give another --out"
        raise InputError(f"{config.out} holds a run with another configuration: {changes}: {hint}.")
    return None


def check_place(config: RunConfig) -> None:
    """Checks that a run may be written to its directory, before its data is read; see :func:`check_output`."""
    check_output(config.out, "run", inputs=folder_of(config.data))


def _check_processes(out: Path, was: int, given: int) -> None:
    if was != given:
        raise InputError(
            f"{out} holds a run of {was} process{'es' if was > 1 else ''}, got {given}: data and noise are drawn per "
            f"process, so only the same number resumes it exactly: start {was}, or give another --out."
        )


def _defaults(config: RunConfig) -> dict[str, Any]:
    """What a run is taken to have that was written before a setting was there."""
    fields = (field for field in dataclasses.fields(config) if field.default is not dataclasses.MISSING)
    return {field.name: field.default for field in fields if field.name not in ("out", "extend")}


def read_config(run: Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
        InputError: If the directory holds no run.
    """
    try:
        return json.loads((run / CONFIG).read_text())
    except FileNotFoundError:
        raise InputError(f"{run} must be a run directory with a {CONFIG}, got none: train with --out {run}.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{run / CONFIG} must be readable JSON, got: {error}.") from None
