"""The summary of a finished run, kept as ``summary.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from immiscible.analysis.drift import Drift
from immiscible.config.groups import RunConfig, inputs_of
from immiscible.io.console import say
from immiscible.io.records import Unfit, check_record, number, read_json
from immiscible.runs.banner import trained_parameters
from immiscible.runs.directory import SUMMARY
from immiscible.tasks.base import PublishedTask
from immiscible.training.metrics import read_metrics


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


def summarise(config: RunConfig, task: PublishedTask, drift: Drift) -> dict[str, Any]:
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
        "data_scale": inputs_of(config).data_scale,
        "schedule_shift": inputs_of(config).schedule_shift,
        "steps": config.steps,
        "loss": last["loss"],
        "parameters": trained_parameters(task),
        "step_ms": step,
        "pairing_ms": pairing,
        "overhead_percent": overhead,
        "drift": drift.as_dict(),
        "warning": drift.warning(),
    }
