"""Checkpoints: safetensors and JSON, written aside, then renamed. What cannot be verified is not loaded.

``RUN/checkpoints/step-<N>/`` holds ``model.safetensors``, ``ema.safetensors``, ``optimizer.safetensors`` and
``state.json`` with the step, a few numbers of the loop, and the SHA-256 of each file. Where noises wait in a reservoir,
``reservoir.safetensors`` says which. A checkpoint to be shared holds ``ema.safetensors`` alone, at half precision,
and its ``state.json`` says so: it can be sampled from, not trained on.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from immiscible.config.values import Kind
from immiscible.errors import InputError
from immiscible.io.files import flush_directory, remove, write_bytes, write_json, writing
from immiscible.io.records import Unfit, check_list, check_record, number, read_json

AVERAGE = "ema.safetensors"
FILES = ("model.safetensors", AVERAGE, "optimizer.safetensors")
# Written where there is something to keep.
WAITS = "reservoir.safetensors"
# What ``state.json`` of a checkpoint says that holds the moving average alone.
ALONE = "weights_only"
# What reading a file that is missing, cut short or altered may raise.
DAMAGE = (OSError, ValueError, KeyError, TypeError, SafetensorError)
# What a checkpoint's numbers are.
STATE = {"step": number("step", whole=True, least=0, most=10**9)}
LOOP = {"loss_sum": number("loss_sum"), "loss_count": number("loss_count", whole=True, least=0, most=10**9)}
STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run is resumed from. What is random is derived from the step, see :mod:`immiscible.seeds`.

    Attributes:
        step: The step after which it was written.
        model: The weights.
        ema: Their moving average.
        optimizer: The state of the optimiser.
        loop: What has been measured since the last logged step, and where the data stand.
        waits: Which noises wait in a reservoir.
    """

    step: int
    model: Mapping[str, Tensor]
    ema: Mapping[str, Tensor]
    optimizer: dict[str, Any]
    loop: dict[str, Any]
    waits: Mapping[str, Tensor] = field(default_factory=dict)


class Damaged(Exception):
    """A checkpoint that is not what was written."""


def save_checkpoint(directory: Path, checkpoint: Checkpoint, keep: int = 0) -> Path:
    """Writes ``directory/step-<N>`` whole or not at all, then removes all but the newest ``keep`` (0 keeps all).

    What stands there already stays if it is the same. What is damaged, or another one, is kept beside it.

    Raises:
        WriteError: If the disk is full, or does not let it be written.
    """
    target = directory / f"step-{checkpoint.step}"
    aside = directory / f".step-{checkpoint.step}.part"
    with writing(target):
        try:
            shutil.rmtree(aside, ignore_errors=True)
            state = _write_parts(aside, checkpoint)
            if not _holds(target, state):
                set_aside(target)
                flush_directory(aside)
                aside.rename(target)
                flush_directory(directory)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        prune(directory, keep)
    return target


def write_average(directory: Path, step: int, average: Mapping[str, Tensor]) -> None:
    """Writes ``directory/step-<N>`` with the moving average alone, in float16 where that can hold it."""
    data = save({name: _halved(weight.detach().cpu().contiguous()) for name, weight in average.items()})
    target = directory / f"step-{step}"
    write_bytes(target / AVERAGE, data)
    state = {"step": step, "sha256": {AVERAGE: hashlib.sha256(data).hexdigest()}, ALONE: True}
    write_json(target / "state.json", state)


def _halved(weight: Tensor) -> Tensor:
    """A weight in float16, unless one of its numbers is too large."""
    half = weight.half() if weight.is_floating_point() else weight
    return half if half.isfinite().all() else weight


def _write_parts(aside: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """Writes the files of a checkpoint; returns what is in its ``state.json``."""
    tensors, values = _flatten_optimizer(checkpoint.optimizer)
    contents: dict[str, Mapping[str, Tensor]] = {}
    contents.update(zip(FILES, (checkpoint.model, checkpoint.ema, tensors), strict=True))
    if checkpoint.waits:
        contents[WAITS] = checkpoint.waits
    checksums = {}
    for name, content in contents.items():
        data = save({key: value.detach().cpu().contiguous() for key, value in content.items()})
        checksums[name] = hashlib.sha256(data).hexdigest()
        write_bytes(aside / name, data)
    state = {"step": checkpoint.step, "sha256": checksums, "optimizer": values, "loop": checkpoint.loop}
    write_json(aside / "state.json", state)
    return state


def _holds(target: Path, state: dict[str, Any]) -> bool:
    """Whether what stands under a checkpoint's name is whole and has the same contents."""
    try:
        load_checkpoint(target)
        return json.loads((target / "state.json").read_text()) == json.loads(json.dumps(state))
    except (Damaged, *DAMAGE):
        return False


def prune(directory: Path, keep: int) -> None:
    """Removes all but the newest checkpoints; 0 keeps all."""
    for old in checkpoints(directory)[keep:] if keep else []:
        remove(old)


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    found = [path for path in directory.glob("step-*") if STEP.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """The step at which a checkpoint was written, from its name."""
    match = STEP.fullmatch(checkpoint.name)
    if match is None:
        raise InputError(f"a checkpoint directory must be named step-<N>, got {checkpoint}.")
    return int(match[1])


def set_aside(target: Path) -> None:
    """Keeps what stands under a checkpoint's name: ``step-<N>.damaged-<i>``, or ``.replaced-<i>`` where it is whole."""
    if not target.exists():
        return
    try:
        load_checkpoint(target)
        why = "replaced"
    except Damaged:
        why = "damaged"
    number = 0
    while target.exists():
        number += 1
        other = target.with_name(f"{target.name}.{why}-{number}")
        if not other.exists():
            target.rename(other)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint and verifies the checksum of every file.

    Raises:
        Damaged: If a file is missing, cut short or altered.
        InputError: If it holds the moving average alone.
    """
    try:
        state = _read_state(path)
        if not state.get(ALONE):
            model, ema, optimizer = (_verified(path / name, state["sha256"][name]) for name in FILES)
            merged = _unflatten_optimizer(optimizer, state["optimizer"])
            waits = _verified(path / WAITS, state["sha256"][WAITS]) if WAITS in state["sha256"] else {}
            return Checkpoint(state["step"], model, ema, merged, state["loop"], waits)
    except DAMAGE as error:
        raise Damaged(f"{path}: {error}") from error
    raise InputError(
        f"{path} must hold what a run is resumed from, got its averaged weights alone, which can only be sampled from: "
        "to train, give another --out."
    )


def load_average(path: Path) -> dict[str, Tensor]:
    """Reads and verifies the moving average of the weights alone, which is all that sampling needs.

    Raises:
        Damaged: If it is missing, cut short or altered.
    """
    try:
        state = _read_state(path)
        average = _verified(path / AVERAGE, state["sha256"][AVERAGE])
        if state.get(ALONE):
            return {name: weight.float() if weight.is_floating_point() else weight for name, weight in average.items()}
        return average
    except DAMAGE as error:
        raise Damaged(f"{path}: {error}") from error


def weights_digest(run: Path, step: int) -> str:
    """The SHA-256 of the moving average at a step of a run, as it was written."""
    path = run / "checkpoints" / f"step-{step}"
    try:
        return _read_state(path)["sha256"][AVERAGE]
    except DAMAGE as error:
        raise InputError(f"{path} must hold a whole checkpoint, got: {error}.") from None


def _read_state(path: Path) -> dict[str, Any]:
    """What ``state.json`` of a checkpoint holds, of the types that were written."""
    where = path / "state.json"
    state = check_record(read_json(where), STATE, where, ("step", "sha256"))
    if state["step"] != step_of(path):
        raise Unfit(f"`step` in {where} must be that of its directory, got {state['step']}")
    if state.get(ALONE):
        check_record(state["sha256"], {AVERAGE: Kind(AVERAGE, str)}, f"`sha256` of {where}", (AVERAGE,))
        return state
    check_record(state, {}, where, ("optimizer", "loop"))
    checksums = {name: Kind(name, str) for name in (*FILES, WAITS)}
    check_record(state["sha256"], checksums, f"`sha256` of {where}", FILES)
    check_record(state["loop"], LOOP, f"`loop` of {where}", LOOP)
    check_list(state["loop"].get("loss_sums", []), "loss_sums", where, _is_number, "numbers")
    check_list(state["loop"].get("stream", []), "stream", where, lambda value: isinstance(value, dict), "objects")
    scaler = check_record(state["loop"].get("scaler", {}), {}, f"`scaler` of {where}")
    check_record(scaler, {key: number(key) for key in scaler}, f"`scaler` of {where}")
    check_record(state["optimizer"], {}, f"`optimizer` of {where}", ("param_groups",))
    return state


def plain_name(name: str) -> str:
    """The name of a weight without what torch.compile puts into it, which earlier versions may have written."""
    return name.replace("_orig_mod.", "")


def _verified(path: Path, checksum: str) -> dict[str, Tensor]:
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ValueError(f"the checksum of {path.name} does not match")
    return {plain_name(name): tensor for name, tensor in load(data).items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flatten_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors by flat names, and its groups as JSON values."""
    tensors = {
        f"{index}.{name}": torch.as_tensor(value)
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, {"param_groups": state["param_groups"]}


def _unflatten_optimizer(tensors: dict[str, Tensor], values: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    return {"state": state, "param_groups": values["param_groups"]}
