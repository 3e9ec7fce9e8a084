"""``immiscible train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate import PartialState

from immiscible.cli.arguments import values_of
from immiscible.cli.results import report
from immiscible.config.groups import as_json
from immiscible.config.systems import config_of
from immiscible.evaluation.kept import read_rows
from immiscible.runs.open import load_run
from immiscible.runs.resolve import resolve
from immiscible.runs.train import train as train_run
from immiscible.tasks.registry import load_data


def train(arguments: Any) -> None:
    """Trains or resumes a run."""
    kind = config_of(arguments.task)
    config = kind(**values_of(kind, arguments))
    if arguments.dry_run:
        resolved = resolve(config, load_data(config))
        print(json.dumps({"task": config.task, **as_json(resolved), "out": str(config.out)}, indent=2))
        return
    summary = train_run(config)
    if not PartialState().is_main_process:
        return
    if getattr(arguments, "pipeline", False):
        _write_pipeline(config.out, arguments.mode)
    report(arguments.json, summary, f"{config.out}: {summary['steps']} steps{_times(summary)}", indent=2)


def _times(summary: dict[str, Any]) -> str:
    """How long a step took, where that is known."""
    if summary["overhead_percent"] is None:
        return ""
    return (
        f", {summary['step_ms']:.1f} ms each, of which pairing {summary['pairing_ms']:.2f} ms "
        f"({summary['overhead_percent']:.1f} % overhead)"
    )


def _write_pipeline(run: Path, mode: str) -> None:
    """Writes what was trained where others find it; what an earlier step left there makes room when it is whole."""
    from immiscible.runs.export import export

    out = run / ("lora" if mode == "lora" else "pipeline")
    export(load_run(run), out, scores=read_rows(run), replace=True)
