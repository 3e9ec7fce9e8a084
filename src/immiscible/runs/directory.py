"""The run directory: who owns it, and whether a command may go on in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from immiscible import __version__
from immiscible.config.groups import RunConfig, as_json, differing_keys
from immiscible.config.systems import config_of, is_system, system
from immiscible.config.values import Kind, flag_of, kinds
from immiscible.errors import InputError, one_line
from immiscible.io.files import write_json, write_text
from immiscible.io.outputs import check_output, folder_of
from immiscible.io.records import Unfit, check_list, check_record, number, read_json
from immiscible.seeds import SEED_BITS, ShortSeed
from immiscible.tasks.base import Data
from immiscible.tasks.registry import places_of, task_of

CONFIG = "config.json"
SUMMARY = "summary.json"
# What samples of a text-conditional run are drawn for, a line each.
PROMPTS = "prompts.txt"
# What tells a run from others, apart from its configuration; and the largest side of an image among it.
FACTS: dict[str, Kind] = {
    "task": Kind("task", str),
    "version": Kind("version", str),
    "processes": number("processes", whole=True, least=1, most=10**6),
    "data_fingerprint": Kind("data_fingerprint", str),
    "data_count": number("data_count", whole=True, least=1, most=2**62),
    "classes": number("classes", whole=True, least=0, most=10**7),
    "model_fingerprint": Kind("model_fingerprint", str),
    "seed_bits": number("seed_bits", whole=True, least=ShortSeed.BITS, most=SEED_BITS),
}
LARGEST_SIDE = 2**16
IMAGE_AXES = ("C", "H", "W")
COUNTS = {2: "two", 3: "three", 4: "four"}
PLACES = {name: Kind(name, str) for name in ("data", "model")}
# Facts that may differ when a run is resumed, as fields do that are marked so.
OPERATIONAL = ("version", "places")
# Facts of runs that do not say so.
BEFORE = {"processes": 1, "seed_bits": ShortSeed.BITS}


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
    for picture in (out / "samples").glob("step-*.*"):
        picture.unlink()


def identify(config: RunConfig, data: Data, processes: int) -> dict[str, Any]:
    """What tells a run from others, apart from its configuration."""
    return task_of(config).identity(config) | {
        "task": config.task,
        "version": __version__,
        "processes": processes,
        "seed_bits": SEED_BITS,
        "places": places_of(config),
        "data_fingerprint": data.fingerprint(),
        "data_count": len(data),
        "data_shape": list(data.shape),
        "classes": data.classes,
    }


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
    values = _with_seeds_of(config, saved, values)
    _check_processes(config.out, saved["processes"], values["processes"])
    moved = _moved(values, saved)
    # The same data in another place is no other configuration.
    saved = {**saved, **moved}
    differing = [key for key in differing_keys(values, saved, type(config)) if key not in OPERATIONAL]
    differing = [key for key in differing if not _without_effect(key, values, saved)]
    longer = differing == ["steps"] and config.steps > saved["steps"]
    if longer and config.extend and config.lr_schedule != "constant":
        raise InputError(
            f"--extend needs --lr-schedule constant, got {config.lr_schedule}: its learning rate falls towards the "
            f"last of --steps, so the {config.steps} steps of a run are not those of a shorter one: give another --out."
        )
    if longer and config.extend:
        return {**saved, "steps": config.steps}
    if differing:
        changes = ", ".join(f"{key} was {saved.get(key)!r}, is {values.get(key)!r}" for key in differing)
        hint = _hint(config, saved, differing)
        raise InputError(f"{config.out} holds a run with another configuration: {changes}: {hint}.")
    return saved if moved else None


def _hint(config: RunConfig, saved: dict[str, Any], differing: list[str]) -> str:
    """What to do about a run whose configuration differs in some keys."""
    known = kinds(type(config))
    shares = [key for key in differing if known[key].share_of] if set(differing) <= known.keys() else []
    longer = differing == [*shares, "steps"] and config.steps > saved["steps"]
    if not longer or config.lr_schedule != "constant":
        return "give another --out"
    kept = " ".join(f"{flag_of(key)} {saved[key]}" for key in shares)
    return f"to train longer, keep {kept} and add --extend" if shares else "add --extend to train longer"


def _moved(values: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """Where the data of a run is now, if that is not where it was, recognised by its fingerprint."""
    if values.get("data_fingerprint") is None or values["data_fingerprint"] != saved.get("data_fingerprint"):
        return {}
    now = {key: values[key] for key in ("data", "places") if key in values and key in saved}
    return {} if all(saved[key] == value for key, value in now.items()) else now


def check_place(config: RunConfig) -> None:
    """Checks that a run may be written to its directory, before its data is read; see :func:`check_output`."""
    read = [config.data, getattr(config, "model", "")]
    check_output(config.out, "run", inputs=[folder for name in read for folder in folder_of(name)])


def _with_seeds_of(config: RunConfig, saved: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """What is asked for, with the seeds of a run whose training is over: nothing is drawn for it any more."""
    if saved["seed_bits"] == values["seed_bits"]:
        return values
    steps = [path.name.removeprefix("step-") for path in (config.out / "checkpoints").glob("step-*")]
    if any(step.isdecimal() and int(step) >= config.steps for step in steps):
        return {**values, "seed_bits": saved["seed_bits"]}
    raise InputError(
        f"{config.out} must be a run whose seeds are drawn from as in this version, got one of version "
        f"{saved.get('version')}, whose data and noise would be others from here on: go on with that version, or give "
        "another --out."
    )


def _check_processes(out: Path, was: int, given: int) -> None:
    if was != given:
        raise InputError(
            f"{out} holds a run of {was} process{'es' if was > 1 else ''}, got {given}: data and noise are drawn per "
            f"process, so only the same number resumes it exactly: start {was}, or give another --out."
        )


def _without_effect(key: str, *configurations: dict[str, Any]) -> bool:
    """Whether a setting changes nothing in configurations; those of versions that did not refuse it may have it."""
    kind = _known(configurations[0].get("task", "")).get(key)
    needs = kind.needs if kind else None
    return needs is not None and not any(needs.holds(values.get(needs.field)) for values in configurations)


def _defaults(config: RunConfig) -> dict[str, Any]:
    """What a run is taken to have that was written before a setting was there."""
    fields = (field for field in dataclasses.fields(config) if field.default is not dataclasses.MISSING)
    return {field.name: field.default for field in fields if field.name not in ("out", "extend")}


def read_config(run: Path, required: Collection[str] = ()) -> dict[str, Any]:
    """The configuration of a run, whose values are of the types and in the ranges that they were written with.

    Arguments:
        run: The run directory.
        required: Keys that it must have.

    Raises:
        InputError: If the directory holds no run, or what it holds was altered.
    """
    path = run / CONFIG
    try:
        saved = check_record(read_json(path), FACTS, path, required)
        check_record(saved, _known(saved.get("task", "")), path)
        check_record(saved.get("places", {}), PLACES, f"`places` of {path}")
        if "data_shape" in saved:
            _check_shape(saved["data_shape"], saved.get("task", ""), path)
        return saved
    except FileNotFoundError:
        raise InputError(f"{run} must be a run directory with a {CONFIG}, got none: train with --out {run}.") from None
    except Unfit as error:
        raise InputError(f"{error}: restore the file as it was written.") from None


@cache
def _known(task: str) -> Mapping[str, Kind]:
    """What a task's configuration holds."""
    return {name: kind for name, kind in kinds(config_of(task)).items() if name != "out"} if is_system(task) else {}


def _check_shape(shape: Any, task: str, path: Path) -> None:
    """Checks the shape of a datum, which has the axes that the row of the system names."""
    axes = system(task).axes if is_system(task) else IMAGE_AXES
    count = COUNTS.get(len(axes), str(len(axes)))
    check_list(shape, "data_shape", path, _is_side, f"the {count} numbers ({', '.join(axes)})")
    if len(shape) != len(axes):
        raise Unfit(f"`data_shape` in {path} must be {count} numbers, got {len(shape)}")


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_SIDE


def write_prompts(out: Path, prompts: Sequence[str]) -> None:
    """Keeps what samples are drawn for beside the run."""
    if prompts:
        write_text(out / PROMPTS, "".join(f"{prompt}\n" for prompt in prompts))


def read_prompts(out: Path) -> tuple[str, ...]:
    """What samples of a run are drawn for; nothing where it needs no prompts."""
    path = out / PROMPTS
    try:
        return tuple(path.read_text(encoding="utf-8").split("\n")[:-1])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} must be text in UTF-8 with a prompt a line, got: {one_line(error)}.") from None
