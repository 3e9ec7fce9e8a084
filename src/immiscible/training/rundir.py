"""The run directory: who owns it, and whether a command may go on in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from immiscible.errors import InputError
from immiscible.training.config import RunConfig, as_json, differing_keys
from immiscible.training.files import write_json

CONFIG = "config.json"
SUMMARY = "summary.json"
# What samples of a text-conditional run are drawn for, a line each.
PROMPTS = "prompts.txt"


def open_run(config: RunConfig, facts: dict[str, Any]) -> None:
    """Starts a run in its directory, or goes on with the one that is there, see :func:`check_run`."""
    values = check_run(config, facts)
    if values is not None:
        write_json(config.out / CONFIG, values)


def check_run(config: RunConfig, facts: dict[str, Any]) -> dict[str, Any] | None:
    """Checks that a directory is free for a run, or that the run there is the same one.

    Arguments:
        config: The configuration, with its directory.
        facts: What else identifies the run (the task, the fingerprint of the data), and is kept with it.

    Returns:
        What the run's ``config.json`` must become, or None if it is right already.

    Raises:
        InputError: If the directory holds a run with another configuration, or something that is no run.
    """
    values = {**facts, **as_json(config)}
    if not (config.out / CONFIG).exists():
        if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
            raise InputError(f"--out must be a new directory or a run to resume, got {config.out} with other contents.")
        return values
    saved = read_config(config.out)
    differing = differing_keys(values, saved)
    longer = differing == ["steps"] and config.steps > saved["steps"]
    if longer and config.extend:
        return {**saved, "steps": config.steps}
    if differing:
        changes = ", ".join(f"{key} was {saved.get(key)!r}, is {values.get(key)!r}" for key in differing)
        hint = "add --extend to train longer" if longer else "give another --out"
        raise InputError(f"{config.out} holds a run with another configuration: {changes}: {hint}.")
    return None


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
