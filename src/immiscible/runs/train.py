"""Trains a run in its directory, or goes on with the one that is there."""

from __future__ import annotations

import os
from typing import Any

from accelerate import Accelerator

from immiscible.config.groups import RunConfig
from immiscible.couplings.distributed.ranks import leave_untold
from immiscible.io.console import say
from immiscible.io.files import write_json
from immiscible.io.locks import locked
from immiscible.runs.banner import Pooling, announcement, data_line
from immiscible.runs.cost_space import Ranking
from immiscible.runs.directory import CONFIG, SUMMARY, check_place, check_run, identify, open_run, write_prompts
from immiscible.runs.noise import Noise
from immiscible.runs.resolve import resolve
from immiscible.runs.source import check_informed, write_source
from immiscible.runs.summary import summarise
from immiscible.tasks.base import Data
from immiscible.tasks.registry import load_data, task_of
from immiscible.training.launcher import launch_line, make_accelerator
from immiscible.training.loop import Loop


def train(config: RunConfig, *, data: Data | None = None, verbose: bool = True) -> dict[str, Any]:
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
    check_informed(config)
    check_place(config)
    accelerator = make_accelerator(config)
    with locked(config.out, together=True):
        return _train(config, data, accelerator, verbose)


def _train(config: RunConfig, data: Data | None, accelerator: Accelerator, verbose: bool) -> dict[str, Any]:
    """Trains a run whose directory is locked, see :func:`train`."""
    data = data or load_data(config)
    config = resolve(config, data)
    identity = identify(config, data, accelerator.num_processes)
    check_run(config, identity)
    kind = task_of(config)
    if not (config.out / CONFIG).exists():
        kind.check_data(config, data)
    # Nothing is written before all processes have looked.
    accelerator.wait_for_everyone()
    facts = kind.facts_of(config, data)
    task = kind.build(config, facts)
    source = task.source(data, accelerator.device)
    ranking = Ranking.fit(config, source.points(), task.grouped)
    pooling = Pooling.of(config, accelerator.num_processes)
    # The announcement says it, for all ranks.
    leave_untold()
    noise = Noise.measure(ranking, task, pooling.together, leaks=accelerator.is_main_process)
    if noise.gap:
        task = task.starting(noise.law)
    if verbose and accelerator.is_main_process:
        for line in (
            *announcement(config, task, data, pooling, ranking.sample, accelerator.device),
            data_line(config, data),
            *ranking.lines(),
            launch_line(config, accelerator.num_processes, accelerator.device, os.environ),
            *noise.lines(),
        ):
            say(line)

    def open_directory() -> None:
        open_run(config, identity)
        ranking.write(config.out)
        write_source(config.out, noise.law)
        task.keep(config.out)
        write_prompts(config.out, facts.prompts)

    loop = Loop(config, task, source, ranking.coupling(accelerator.device), accelerator)
    loop.run(verbose=verbose, open_directory=open_directory)
    summary = summarise(config, task, noise.drift) | noise.summary()
    if accelerator.is_main_process:
        write_json(config.out / SUMMARY, summary)
    return summary
