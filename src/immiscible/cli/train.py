"""``immiscible train``."""

from __future__ import annotations

import json

from accelerate import PartialState

from immiscible.cli.arguments import TrainFlow, values_of
from immiscible.data import load
from immiscible.tasks import runs
from immiscible.training.config import FlowConfig, as_json


def train_flow(arguments: TrainFlow) -> None:
    """Trains or resumes a run."""
    config = FlowConfig(**values_of(FlowConfig, arguments))
    if arguments.dry_run:
        data = load(config.data, image_size=config.image_size)
        print(json.dumps({**as_json(runs.resolve(config, data)), "out": str(config.out)}, indent=2))
        return
    summary = runs.train_flow(config)
    processes = PartialState()
    processes.destroy_process_group()
    if not processes.is_main_process:
        return
    if arguments.json:
        print(json.dumps(summary, indent=2))
    else:
        print(
            f"{config.out}: {summary['steps']} steps, {summary['step_ms']:.1f} ms each, of which pairing "
            f"{summary['pairing_ms']:.2f} ms ({summary['overhead_percent']:.1f} % overhead)"
        )
