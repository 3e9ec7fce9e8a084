"""``immiscible train``."""

from __future__ import annotations

import json

from accelerate import PartialState

from immiscible.cli.arguments import TrainConsistency, TrainDDIM, TrainFlow, values_of
from immiscible.tasks import runs
from immiscible.tasks.published import load_data
from immiscible.training.config import as_json
from immiscible.training.recipes import CONFIGS


def train(arguments: TrainFlow | TrainDDIM | TrainConsistency) -> None:
    """Trains or resumes a run."""
    kind = CONFIGS[arguments.task]
    config = kind(**values_of(kind, arguments))
    if arguments.dry_run:
        resolved = runs.resolve(config, load_data(config))
        print(json.dumps({"task": config.task, **as_json(resolved), "out": str(config.out)}, indent=2))
        return
    summary = runs.train(config)
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
