"""Trains a run in its directory, and opens a trained one to sample from."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from safetensors.torch import save
from torch import Tensor, nn

from immiscible import __version__
from immiscible.analysis.drift import Drift, measure_drift
from immiscible.config.groups import NetworkFields, OfTheUNet, RunConfig
from immiscible.config.systems import SYSTEMS, config_of, imported, is_system, system
from immiscible.config.values import check_needs, kinds, told
from immiscible.couplings import Coupling, describe
from immiscible.couplings import coupling as parse_coupling
from immiscible.couplings.distributed.ranks import leave_untold
from immiscible.couplings.parts import pooled_by_run
from immiscible.couplings.spaces import InSpace, LinearSpace
from immiscible.data import Images
from immiscible.errors import InputError, one_line
from immiscible.io.console import say
from immiscible.io.files import write_bytes, write_json, write_text
from immiscible.io.locks import locked
from immiscible.io.records import Unfit, check_record, number, read_json
from immiscible.networks import choose
from immiscible.runs.banner import Pooling, announcement, data_line, trained_parameters
from immiscible.runs.cost_space import fit_cost_space, ranked_sample
from immiscible.runs.directory import CONFIG, PROMPTS, SUMMARY, check_place, check_run, open_run, read_config
from immiscible.samplers import Sampler, Samples
from immiscible.samplers.base import NotFinite, Start
from immiscible.seeds import SEED_BITS, ShortSeed, seed_of
from immiscible.tasks.base import PublishedTask, Shape
from immiscible.tasks.registry import load_data, placed, places_of, task_of
from immiscible.training.checkpoint import Damaged, checkpoints, load_average, step_of
from immiscible.training.compatibility import check_average
from immiscible.training.ema import load_weights
from immiscible.training.launcher import launch_line, make_accelerator
from immiscible.training.loop import Loop
from immiscible.training.metrics import read_metrics
from immiscible.training.sources import Points

C = TypeVar("C", bound=RunConfig)

# The drift is measured on about so many noises, in at most so many batches: enough to see one per cent, in a moment.
DRIFT_NOISES = 8192
MOST_DRIFT_BATCHES = 256
# Large pools are measured by smaller ones: to permute noise leaves its law as it is in both.
MOST_DRIFT_POOL = 2048


def train(config: RunConfig, *, data: Images | None = None, verbose: bool = True) -> dict[str, Any]:
    """Trains, or resumes, a run; returns its summary, which is also ``summary.json``.

    Arguments:
        config: What to train.
        data: The data where it is loaded already.
        verbose: Whether to report progress on stderr.

    Raises:
        InputError: If the configuration, the data or the run directory does not fit, or another process trains there.
        WriteError: If the disk is full, or does not let the run be written.
        Interrupted: If a signal asked to stop; the state is saved.
        TrainingError: If the training diverged.
    """
    parse_coupling(config.coupling)
    check_place(config)
    accelerator = make_accelerator(config)
    with locked(config.out, together=True):
        return _train(config, data, accelerator, verbose)


def _train(config: RunConfig, data: Images | None, accelerator: Accelerator, verbose: bool) -> dict[str, Any]:
    """Trains a run whose directory is locked, see :func:`train`."""
    data = data or load_data(config)
    config = resolve(config, data)
    identity = _identity(config, data, accelerator.num_processes)
    check_run(config, identity)
    kind = task_of(config)
    if not (config.out / CONFIG).exists():
        kind.check_data(config, data)
    # Nothing is written before all processes have looked.
    accelerator.wait_for_everyone()
    facts = kind.facts_of(config, data)
    task = kind.build(config, facts)
    source = task.source(data, accelerator.device)
    points = source.points()
    space = fit_cost_space(config, points)
    pooling = Pooling.of(config, accelerator.num_processes)
    # The announcement says it, for all ranks.
    leave_untold()
    drift = _drift(config, task, points, space, min(pooling.together, MOST_DRIFT_POOL))
    drift.check(config.coupling, exact=describe(config.coupling).marginal.startswith("exact"))
    if verbose and accelerator.is_main_process:

        def ranked(count: int) -> torch.Tensor:
            return ranked_sample(config, points, space, count)

        for line in announcement(config, task, data, pooling, ranked, accelerator.device):
            say(line)
        say(data_line(config, data))
        say(launch_line(config, accelerator.num_processes, accelerator.device, os.environ))
        say(drift.warning() or f"the noise law holds: E|n|^2/D = {drift.norm_ratio:.3f}.")

    def open_directory() -> None:
        open_run(config, identity)
        _write_space(config.out, space)
        _write_prompts(config.out, facts.prompts)

    loop = Loop(config, task, source, _coupling(config, space.to(accelerator.device)), accelerator)
    loop.run(verbose=verbose, open_directory=open_directory)
    summary = _summary(config, task, drift)
    if accelerator.is_main_process:
        write_json(config.out / SUMMARY, summary)
    return summary


def resolve(config: C, data: Images) -> C:
    """The configuration with its coupling in its own spelling and the network that ``auto`` stands for."""
    network = {"network": choose(config.network, data.shape)} if isinstance(config, NetworkFields) else {}
    found = dataclasses.replace(config, coupling=str(pooled_by_run(parse_coupling(config.coupling))), **network)
    if isinstance(config, NetworkFields) and config.network == "auto":
        # Presets that set what only the U-Net has name it.
        check_needs(found, [name for name, kind in kinds(type(found)).items() if kind.needs == OfTheUNet])
    return found


def _coupling(config: RunConfig, space: LinearSpace) -> Coupling:
    coupling = parse_coupling(config.coupling)
    return coupling if space.trivial else InSpace(coupling, space)


def _write_space(out: Path, space: LinearSpace) -> None:
    """Keeps what the data was ranked by beside the run."""
    if tensors := space.tensors():
        write_bytes(out / "cost-space.safetensors", save(tensors))


def _write_prompts(out: Path, prompts: Sequence[str]) -> None:
    """Keeps what samples are drawn for beside the run."""
    if prompts:
        write_text(out / PROMPTS, "".join(f"{prompt}\n" for prompt in prompts))


def _read_prompts(out: Path) -> tuple[str, ...]:
    path = out / PROMPTS
    try:
        return tuple(path.read_text(encoding="utf-8").split("\n")[:-1])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} must be text in UTF-8 with a prompt a line, got: {one_line(error)}.") from None


def _drift(config: RunConfig, task: PublishedTask, points: Points, space: LinearSpace, per_pairing: int) -> Drift:
    batches = min(MOST_DRIFT_BATCHES, max(1, DRIFT_NOISES // per_pairing))
    return measure_drift(
        _coupling(config, space),
        points,
        scale=config.data_scale,
        batch_size=per_pairing,
        batches=batches,
        labelled=task.grouped,
    )


def _identity(config: RunConfig, data: Images, processes: int) -> dict[str, Any]:
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


def _last_measured(out: Path) -> dict[str, Any]:
    """Loss and times of a finished run; None each if a power cut took both places where they are written."""
    measured = ("loss", "step_ms", "pairing_ms")
    for line in reversed(read_metrics(out)):
        if all(name in line for name in measured):
            return line
    try:
        kinds = {name: number(name) for name in measured}
        return check_record(read_json(out / SUMMARY), kinds, out / SUMMARY, measured)
    except (FileNotFoundError, Unfit):
        say(f"warning: the loss and the times of {out} are lost: its metrics.jsonl holds none.")
        return dict.fromkeys(measured)


def _summary(config: RunConfig, task: PublishedTask, drift: Drift) -> dict[str, Any]:
    """What a finished run was and took. The times are means over the steps of its last session."""
    last = _last_measured(config.out)
    step, pairing = last["step_ms"], last["pairing_ms"]
    overhead = None if None in (step, pairing) or step <= pairing else 100 * pairing / (step - pairing)
    return {
        "task": config.task,
        "coupling": config.coupling,
        "cost_space": config.cost_space,
        "coupling_start": config.coupling_start,
        "coupling_stop": config.coupling_stop,
        "data_scale": config.data_scale,
        "schedule_shift": config.schedule_shift,
        "steps": config.steps,
        "loss": last["loss"],
        "parameters": trained_parameters(task),
        "step_ms": step,
        "pairing_ms": pairing,
        "overhead_percent": overhead,
        "drift": drift.as_dict(),
        "warning": drift.warning(),
    }


@dataclass(frozen=True)
class Run:
    """A trained run, ready to sample from.

    Attributes:
        path: The run directory.
        config: Its configuration.
        task: Its task, with the moving average of the weights as its network, in evaluation mode.
        step: The step of the checkpoint.
        shape: The shape of an image, (C, H, W).
        seed_bits: How much of a derived seed its generators use.
        places: Where its data and its model were, see :func:`immiscible.tasks.registry.place_of`.
    """

    path: Path
    config: RunConfig
    task: PublishedTask
    step: int
    shape: Shape
    seed_bits: int = SEED_BITS
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def network(self) -> nn.Module:
        """The moving average of the weights."""
        return self.task.network

    @property
    def classes(self) -> int:
        """The number of classes, 0 for an unconditional run."""
        return self.task.classes

    @property
    def guidance(self) -> float:
        """The weight of guidance that the run's samples are drawn with, unless told otherwise."""
        return self.task.guidance

    @property
    def conditional(self) -> bool:
        """Whether samples can be guided."""
        return self.task.guidable

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def prompts(self, count: int) -> list[str]:
        """What so many samples are drawn for, in turn; for text-conditional runs."""
        known = _read_prompts(self.path)
        if not known:
            raise InputError(f"{self.path / PROMPTS} must hold a prompt a line, got none.")
        return [known[index % len(known)] for index in range(count)]

    def data(self, moved: str = "") -> Images:
        """The data that the run was trained on, told by its fingerprint.

        Arguments:
            moved: Where the data is now, spelt as for training, if that is not where it was.

        Raises:
            InputError: If it is gone or is not the same any more.
        """
        config = dataclasses.replace(self.config, data=moved) if moved else placed(self.config, self.places)
        try:
            data = load_data(config)
        except InputError as error:
            hint = "" if moved else f" {self.path} was trained on it: if it has moved, say where it is with --data."
            raise InputError(f"{error}{hint}") from error
        if data.fingerprint() != read_config(self.path)["data_fingerprint"]:
            raise InputError(
                f"{config.data} must be the data that {self.path} was trained on, got other contents: give it back, "
                "or say where it is with --data."
            )
        return data

    @property
    def at_once(self) -> int:
        """How many images are sampled at once, which bounds the memory on the device."""
        return self.task.at_once

    def start(self, count: int, seed: int, scale: float = 1.0, first: int = 0) -> Start:
        """Where to start that many samples, see :meth:`immiscible.tasks.base.PublishedTask.start`."""
        return self.task.start(count, self.seed(seed), scale, first)

    def seed(self, seed: int) -> int:
        """A seed as this run draws from it: one of an earlier version gives the images that it gave then."""
        return seed_of(self.seed_bits, seed)

    def sample(self, start: Start, sampler: Sampler, guidance: float = 1.0) -> Samples:
        """Draws images, see :meth:`immiscible.tasks.base.PublishedTask.sample`."""
        return self.task.sample(self.network, start, sampler, guidance)


def load_run(path: Path, *, step: int | None = None, device: torch.device | str = "cpu") -> Run:
    """Opens a run at a step, or at its newest checkpoint that is whole.

    Raises:
        InputError: If there is no run, no such step, or no whole checkpoint.
    """
    config, saved = read_run_config(path)
    spelt = config
    shape = (saved["data_shape"][0], saved["data_shape"][1], saved["data_shape"][2])
    found, weights = _weights(path, step)
    _check_finite(path, found, weights)
    places = saved.get("places", {})
    config = placed(config, places)
    kind = task_of(config)
    kind.check_identity(config, path, saved)
    task = kind.build(config, kind.known_facts(config, shape, saved["classes"], _read_prompts(path)))
    check_average(path / "checkpoints" / f"step-{found}", weights, task.network)
    load_weights(task.network, weights)
    task.network.to(device).eval()
    return Run(path, spelt, task, found, shape, saved.get("seed_bits", ShortSeed.BITS), places)


def _check_finite(path: Path, step: int, weights: Mapping[str, Tensor]) -> None:
    """Checks that weights can be sampled from."""
    bad = [name for name, weight in weights.items() if not bool(weight.isfinite().all())]
    if bad:
        raise NotFinite(
            f"{path} must hold finite weights, got NaN or infinite values in {len(bad)} of {len(weights)} tensors at "
            f"step {step}, first in {bad[0]}: take another --step, or train again with a lower --learning-rate."
        )


def read_run_config(path: Path) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration of a run, and all that its ``config.json`` holds.

    Raises:
        InputError: If there is no run, its task is not known to this version, or its configuration was altered.
    """
    saved = read_config(path, ("task", "data_shape", "classes", "data_fingerprint"))
    if not is_system(saved["task"]):
        raise InputError(f"{path} must be a run of {', '.join(SYSTEMS)}, got {told(saved['task'])}.")
    kind = config_of(saved["task"])
    required = [name for name, field in kinds(kind).items() if field.required and name != "out"]
    read_config(path, [*required, *imported(system(kind.task).task).needs])
    names = kinds(kind).keys() - {"out"}
    try:
        return kind(out=path, **{key: value for key, value in saved.items() if key in names}), saved
    except InputError as error:
        raise InputError(f"{path / CONFIG} must be as it was written, got values that do not fit: {error}") from None


def _weights(path: Path, step: int | None) -> tuple[int, dict[str, Tensor]]:
    """The moving average of the weights at a step, and that step."""
    there = checkpoints(path / "checkpoints")
    wanted = [found for found in there if step in (None, step_of(found))]
    if not wanted:
        steps = ", ".join(str(step_of(found)) for found in reversed(there)) or "none"
        named = "" if step is None else f" of step {step}"
        raise InputError(f"{path} must hold a checkpoint{named}, got steps: {steps}.")
    for found in wanted:
        try:
            return step_of(found), load_average(found)
        except Damaged as error:
            say(f"warning: damaged checkpoint, passed over: {error}")
    raise InputError(f"{path} must hold a whole checkpoint, got damaged ones only: run its training command again.")
