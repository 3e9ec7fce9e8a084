"""Trains a run in its directory, and opens a trained one to sample from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from immiscible import __version__
from immiscible.analysis.drift import Drift, measure_drift
from immiscible.couplings import coupling as parse_coupling
from immiscible.data import Images, load
from immiscible.errors import InputError
from immiscible.networks import choose
from immiscible.tasks.flow import FlowTask, make_task, start_noise
from immiscible.training.checkpoint import Damaged, checkpoints, load_average, step_of
from immiscible.training.config import FlowConfig
from immiscible.training.events import read_metrics, say
from immiscible.training.files import write_bytes, write_json
from immiscible.training.loop import Loop, make_accelerator
from immiscible.training.rundir import SUMMARY, open_run, read_config

# The drift is measured on about so many noises, in at most so many batches: enough to see one per cent, in a moment.
DRIFT_NOISES = 8192
MOST_DRIFT_BATCHES = 256


def train_flow(config: FlowConfig, *, data: Images | None = None, verbose: bool = True) -> dict[str, Any]:
    """Trains, or resumes, a flow-matching run; returns its summary, which is also ``summary.json``.

    Arguments:
        config: What to train.
        data: The data where it is loaded already.
        verbose: Whether to report progress on stderr.

    Raises:
        InputError: If the configuration, the data or the run directory does not fit.
        Interrupted: If a signal asked to stop; the state is saved.
        TrainingError: If the training diverged.
    """
    coupling = parse_coupling(config.coupling)
    data = data or load(config.data, image_size=config.image_size)
    config = resolve(config, data)
    accelerator = make_accelerator(config)
    task = make_task(config, data)
    if accelerator.is_main_process:
        open_run(config, _facts(data))
    accelerator.wait_for_everyone()
    centre = data.mean() if config.cost_space == "centered" else None
    if centre is not None and accelerator.is_main_process:
        write_bytes(config.out / "mean.safetensors", save({"mean": centre}))
    per_pairing = config.batch_size // config.accumulation // accelerator.num_processes
    batches = min(MOST_DRIFT_BATCHES, max(1, DRIFT_NOISES // per_pairing))
    drift = measure_drift(
        coupling, data, centre=centre, batch_size=per_pairing, batches=batches, labelled=config.conditional
    )
    if verbose and accelerator.is_main_process:
        say(_announcement(config, task, data, per_pairing))
        say(drift.warning() or f"the noise law holds: E|n|^2/D = {drift.norm_ratio:.3f}.")
    Loop(config, task, data, centre, accelerator).run(verbose=verbose)
    summary = _summary(config, task, drift)
    if accelerator.is_main_process:
        write_json(config.out / SUMMARY, summary)
    return summary


def resolve(config: FlowConfig, data: Images) -> FlowConfig:
    """The configuration with its coupling in its own spelling and the network that ``auto`` stands for."""
    coupling = str(parse_coupling(config.coupling))
    return dataclasses.replace(config, coupling=coupling, network=choose(config.network, data.shape))


def _facts(data: Images) -> dict[str, Any]:
    shape = list(data.shape)
    return {
        "task": "flow",
        "version": __version__,
        "data_fingerprint": data.fingerprint(),
        "data_count": len(data),
        "data_shape": shape,
        "classes": data.classes,
    }


def _announcement(config: FlowConfig, task: FlowTask, data: Images, per_pairing: int) -> str:
    where = " within classes" if task.classes and "assignment" in config.coupling else ""
    shape = "x".join(map(str, data.shape))
    return (
        f"flow matching on {data.name} ({len(data)} images of {shape}), {config.network} of {_parameters(task):,} "
        f"parameters, coupling {config.coupling}{where}, {per_pairing} paired at once"
    )


def _parameters(task: FlowTask) -> int:
    return sum(parameter.numel() for parameter in task.network.parameters())


def _summary(config: FlowConfig, task: FlowTask, drift: Drift) -> dict[str, Any]:
    """What a finished run was and took. The times are means over the steps of its last session."""
    last = read_metrics(config.out)[-1]
    return {
        "task": "flow",
        "coupling": config.coupling,
        "cost_space": config.cost_space,
        "steps": config.steps,
        "loss": last["loss"],
        "parameters": _parameters(task),
        "step_ms": last["step_ms"],
        "pairing_ms": last["pairing_ms"],
        "overhead_percent": 100 * last["pairing_ms"] / (last["step_ms"] - last["pairing_ms"]),
        "drift": drift.as_dict(),
        "warning": drift.warning(),
    }


@dataclass(frozen=True)
class Run:
    """A trained run, ready to sample from.

    Attributes:
        path: The run directory.
        config: Its configuration.
        network: The moving average of its weights, in evaluation mode.
        step: The step of the checkpoint.
        shape: The shape of an image, (C, H, W).
        classes: The number of classes, 0 for an unconditional run.
    """

    path: Path
    config: FlowConfig
    network: nn.Module
    step: int
    shape: tuple[int, int, int]
    classes: int

    def data(self) -> Images:
        """The data that the run was trained on.

        Raises:
            InputError: If it is gone or is not the same any more.
        """
        data = load(self.config.data, image_size=self.config.image_size)
        if data.fingerprint() != read_config(self.path)["data_fingerprint"]:
            raise InputError(
                f"{self.config.data} must be the data that {self.path} was trained on, got other contents."
            )
        return data

    def start_noise(self, count: int, seed: int) -> tuple[Tensor, Tensor | None]:
        """Noise to sample from and the class of each, see :func:`immiscible.tasks.flow.start_noise`."""
        return start_noise(self.shape, count, self.classes, seed, next(self.network.parameters()).device)


def load_run(path: Path, *, step: int | None = None, device: str = "cpu") -> Run:
    """Opens a run at a step, or at its newest checkpoint that is whole.

    Raises:
        InputError: If there is no run, no such step, or no whole checkpoint.
    """
    saved = read_config(path)
    names = {field.name for field in dataclasses.fields(FlowConfig)}
    config = FlowConfig(out=path, **{key: value for key, value in saved.items() if key in names})
    shape = (saved["data_shape"][0], saved["data_shape"][1], saved["data_shape"][2])
    classes = saved["classes"] if config.conditional else 0
    found, weights = _weights(path, step)
    task = FlowTask.build(config, shape, classes)
    task.network.load_state_dict(weights)
    return Run(path, config, task.network.to(device).eval(), found, shape, classes)


def _weights(path: Path, step: int | None) -> tuple[int, dict[str, Tensor]]:
    """The moving average of the weights at a step, and that step."""
    there = checkpoints(path / "checkpoints")
    wanted = [found for found in there if step in (None, step_of(found))]
    if not wanted:
        steps = ", ".join(str(step_of(found)) for found in reversed(there)) or "none"
        raise InputError(f"{path} must hold a checkpoint{f' of step {step}' if step else ''}, got steps: {steps}.")
    for found in wanted:
        try:
            return step_of(found), load_average(found)
        except Damaged as error:
            say(f"warning: damaged checkpoint, passed over: {error}")
    raise InputError(f"{path} must hold a whole checkpoint, got damaged ones only: run its training command again.")
