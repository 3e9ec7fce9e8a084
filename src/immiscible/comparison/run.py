"""Trains and scores every coupling of a comparison, from the same weights, on the same data order, noise and times."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

from immiscible.comparison.config import CompareFlow
from immiscible.comparison.report import write_report
from immiscible.comparison.schema import BASELINE, Summary
from immiscible.comparison.summary import Trained, summarise
from immiscible.couplings import coupling as parse_coupling
from immiscible.data import load
from immiscible.errors import InputError
from immiscible.evaluation.features import features_for
from immiscible.evaluation.quality import SAMPLING_SEED, evaluate_run, sample_count
from immiscible.evaluation.scores import Reference
from immiscible.samplers import Solver, parse_solvers
from immiscible.tasks.flow import sample
from immiscible.tasks.runs import Run, load_run, train_flow
from immiscible.training.checkpoint import checkpoints, step_of
from immiscible.training.config import FlowConfig, FlowRecipe
from immiscible.training.events import say
from immiscible.training.files import write_json
from immiscible.training.pictures import write_grid

GRID = 36


def compare_flow(config: CompareFlow) -> Summary:
    """Runs a comparison, or goes on with one, and writes its report.

    Returns:
        The summary, which is also ``summary.json``.

    Raises:
        InputError: If the configuration or the data does not fit, or the directory holds another comparison.
        Interrupted: If a signal asked to stop; the same command goes on.
    """
    couplings = parse_couplings(config.couplings)
    solvers = parse_solvers(config.nfe, config.sampler)
    data = load(config.data, image_size=config.image_size)
    reference = Reference(features_for(data, config.features), data)
    samples = sample_count(config.samples, data)
    say(f"scores by {reference.features.name}")
    trained = []
    for seed in config.seed_list:
        for coupling in couplings:
            run = run_config(config, coupling, seed)
            say(f"{coupling}, seed {seed}: training")
            summary = train_flow(run, data=data)
            say(f"{coupling}, seed {seed}: scoring")
            rows = _score(run.out, reference, solvers, samples)
            trained.append(Trained(coupling, seed, run.out, summary, rows))
    pictures = _draw_samples(config, trained, solvers)
    summary = summarise(config, command(config), data, reference.features.name, samples, solvers, trained, pictures)
    write_json(config.out / "summary.json", summary)
    report = write_report(summary, config.out)
    say(f"report: {report}")
    return summary


def parse_couplings(text: str) -> list[str]:
    """The couplings of a comparison, each in its own spelling.

    Raises:
        InputError: If one is unknown or stands twice.
    """
    names = [str(parse_coupling(word)) for word in text.split(",")]
    if len(set(names)) < len(names):
        raise InputError(f"--couplings must be different, got {text}.")
    return sorted(names, key=lambda name: name != BASELINE)


def run_config(config: CompareFlow, coupling: str, seed: int) -> FlowConfig:
    """The configuration of one run of a comparison."""
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(FlowRecipe)}
    slug = re.sub(r"[^\w.]+", "-", coupling.replace("@", "-at-"))
    every = -(-config.steps // config.evaluations)
    return FlowConfig(
        **shared,
        out=config.out / "runs" / f"{slug}-seed{seed}",
        coupling=coupling,
        seed=seed,
        checkpoint_every=every,
        keep_checkpoints=0,
        sample_every=config.steps,
        tensorboard=False,
    )


def _score(path: Path, reference: Reference, solvers: list[Solver], samples: int) -> list[dict[str, Any]]:
    """The quality of a run at each of its checkpoints."""
    steps = sorted(step_of(found) for found in checkpoints(path / "checkpoints"))
    rows = []
    for step in steps:
        rows += evaluate_run(load_run(path, step=step), reference, solvers, samples=samples)
    return rows


def _draw_samples(config: CompareFlow, trained: list[Trained], solvers: list[Solver]) -> dict[str, dict[str, str]]:
    """Grids of the first seed's samples for each coupling and solver, all from the same noise; paths by both names."""
    pictures: dict[str, dict[str, str]] = {}
    for run in (run for run in trained if run.seed == config.seed_list[0]):
        opened = load_run(run.path)
        pictures[run.coupling] = {
            str(solver): _draw(config.out, opened, solver, run.path.name.rpartition("-")[0]) for solver in solvers
        }
    return pictures


def _draw(out: Path, run: Run, solver: Solver, slug: str) -> str:
    noise, labels = run.start_noise(GRID, SAMPLING_SEED)
    name = f"samples/{slug}-nfe-{solver}.png"
    write_grid(out / name, sample(run.network, noise, solver, labels=labels).images)
    return name


def command(config: CompareFlow) -> str:
    """The command that reproduces a comparison: everything that is not at its default, but for where it is written."""
    words = ["immiscible", "compare", "flow"]
    for field in (field for field in dataclasses.fields(config) if field.name != "out"):
        value = getattr(config, field.name)
        flag = "--" + field.name.replace("_", "-")
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value != field.default or field.name in ("data", "couplings", "seeds"):
            words += [flag, str(value)]
    return shlex.join(words)
