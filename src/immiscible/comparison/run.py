"""Trains and scores every coupling of a comparison, from the same weights, on the same data order, noise and times."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from immiscible.comparison.report import write_report
from immiscible.comparison.schema import Summary
from immiscible.comparison.summary import Scoring, Trained, summarise
from immiscible.comparison.variants import Variant, parse_variants
from immiscible.config.command import command_line
from immiscible.config.comparison import Comparison
from immiscible.config.groups import RunConfig, common
from immiscible.config.systems import config_of
from immiscible.config.values import check_needs
from immiscible.errors import InputError
from immiscible.evaluation.features import features_for
from immiscible.evaluation.quality import FILE as EVALUATION
from immiscible.evaluation.quality import SAMPLING_SEED, evaluate_run, sample_count
from immiscible.evaluation.scores import NotFinite, Reference
from immiscible.io.console import say
from immiscible.io.files import write_json
from immiscible.io.locks import locked
from immiscible.io.outputs import COMPARISON, check_output, claim, folder_of
from immiscible.io.png import write_grid
from immiscible.runs.directory import SUMMARY
from immiscible.runs.runs import load_run, train
from immiscible.samplers import Sampler, parse_samplers
from immiscible.tasks.registry import load_data
from immiscible.training.checkpoint import checkpoints, step_of
from immiscible.training.launcher import make_accelerator
from immiscible.training.progress import TrainingError

GRID = 36


def compare(config: Comparison) -> Summary:
    """Runs a comparison, or goes on with one, and writes its report.

    Returns:
        The summary, which is also ``summary.json``.

    Raises:
        InputError: If the configuration or the data does not fit, or the directory holds another comparison.
        Interrupted: If a signal asked to stop; the same command goes on.
        TrainingError: If every coupling diverged. Otherwise those that did are left out, and the summary names them.
    """
    check_output(config.out, "comparison", inputs=folder_of(config.data))
    variants = parse_variants(config.couplings, config_of(config.task))
    runs = [(variant, run_config(config, variant, seed)) for seed in config.seed_list for variant in variants]
    samplers = parse_samplers(config.task, config.nfe, config.sampler, getattr(config, "eta", 0.0))
    device = scoring_device(runs[0][1])
    with locked(config.out, together=True):
        data = load_data(config)
        samples = sample_count(config.samples, data)
        reference = Reference(features_for(data, config.features, device=device), data)
        _claim(config)
        say(f"scores by {reference.features.name}")
        if doubts := reference.doubts(samples):
            say(f"warning: {doubts}")

        def run_one(variant: Variant, run: RunConfig) -> Trained:
            say(f"{variant.name}, seed {run.seed}: training")
            summary = train(run, data=data)
            if summary["overhead_percent"] is None:
                raise InputError(f"{run.out} must have its metrics.jsonl, got none: remove it, to train it again.")
            say(f"{variant.name}, seed {run.seed}: scoring")
            with locked(run.out / EVALUATION, directory=False, together=True):
                rows = _score(run.out, variant, reference, samplers, samples, device)
            return Trained(variant.name, run.seed, run.out, summary, rows)

        trained, left_out = _run_all(runs, run_one)
        whole = [variant for variant in variants if variant.name not in left_out]
        pictures = {variant.name: _draw_samples(config, variant, samplers, device) for variant in whole}
        scoring = Scoring(data, reference.features.name, samples, [str(sampler) for sampler in samplers], doubts)
        summary = summarise(config, command(config), scoring, trained, pictures)
        if left_out:
            summary["left_out"] = left_out
        if gaps := _gaps(config, trained):
            summary["gaps"] = gaps
        report = write_report(summary, config.out)
        write_json(config.out / SUMMARY, summary)
    say(f"report: {report}")
    return summary


def _run_all(
    runs: Sequence[tuple[Variant, RunConfig]], run_one: Callable[[Variant, RunConfig], Trained]
) -> tuple[list[Trained], dict[str, str]]:
    """All runs of the couplings that do not diverge, and why the others are left out."""
    trained: list[Trained] = []
    left_out: dict[str, str] = {}
    for variant, run in runs:
        if variant.name in left_out:
            continue
        try:
            trained.append(run_one(variant, run))
        except (TrainingError, NotFinite) as error:
            # The others are still worth comparing. Where none is left, the error says all there is.
            left_out[variant.name] = f"with seed {run.seed}, {error}"
            say(f"warning: {variant.name} is left out: {left_out[variant.name]}")
            if all(other.name in left_out for other, _ in runs):
                raise
    return [run for run in trained if run.coupling not in left_out], left_out


def _gaps(config: Comparison, trained: Sequence[Trained]) -> list[str]:
    """The points that curves lack, since checkpoints were removed or damaged after they had been written."""
    every = -(-config.steps // config.evaluations)
    expected = {*range(every, config.steps, every), config.steps}
    lacking = [(run, sorted(expected - {row["step"] for row in run.rows})) for run in trained]
    return [
        f"{run.coupling}, seed {run.seed}: there is no checkpoint of step {', '.join(map(str, steps))}, so its curves "
        f"have no point there. Remove {run.path} to train it again."
        for run, steps in lacking
        if steps
    ]


def scoring_device(config: RunConfig) -> torch.device:
    """Where images are drawn and scored: the device that this process trains on."""
    return make_accelerator(config).device


def _claim(config: Comparison) -> None:
    """Takes the directory for this comparison, whose report no other one may replace."""
    summary, mark = config.out / SUMMARY, config.out / COMPARISON
    if not summary.exists():
        write_json(mark, identity(config))
    elif not mark.exists():
        _check_same(config, summary)
    claim(config.out, "comparison", identity(config))


def _check_same(config: Comparison, summary: Path) -> None:
    """Checks that a comparison of a version that kept no identity had the same contenders, seeds and sampling steps."""
    try:
        saved = json.loads(summary.read_text(encoding="utf-8"))
        was = [sorted(saved["couplings"]), [str(seed) for seed in saved["seeds"]]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{summary} must be the summary of a comparison, got: {error}: give another --out.") from None
    names = sorted(variant.name for variant in parse_variants(config.couplings, config_of(config.task)))
    if was != [names, [str(seed) for seed in config.seed_list]]:
        raise InputError(
            f"{config.out} holds a comparison of {', '.join(was[0])} with seeds {', '.join(was[1])}: give another "
            "--out."
        )


def identity(config: Comparison) -> dict[str, Any]:
    """What tells a comparison from others: all that its report depends on, but for what its runs keep themselves."""
    runs = [variant.name for variant in parse_variants(config.couplings, config_of(config.task))]
    asked = {name: getattr(config, name) for name in ("nfe", "sampler", "evaluations", "samples", "features")}
    return {"task": config.task, "couplings": runs, "seeds": config.seed_list, **asked, "steps": config.steps}


def run_config(config: Comparison, variant: Variant, seed: int) -> RunConfig:
    """The configuration of one run of a comparison."""
    kind = config_of(config.task)
    every = -(-config.steps // config.evaluations)
    found = kind(
        **{name: getattr(config, name) for name in common(kind)} | variant.settings,
        out=config.out / "runs" / f"{variant.slug}-seed{seed}",
        coupling=variant.coupling,
        seed=seed,
        checkpoint_every=every,
        keep_checkpoints=0,
        sample_every=config.steps,
        tensorboard=False,
    )
    check_needs(found, variant.settings, " in --couplings")
    return found


def _score(
    path: Path,
    variant: Variant,
    reference: Reference,
    samplers: Sequence[Sampler],
    samples: int,
    device: torch.device,
) -> list[dict[str, Any]]:
    """The quality of a run at each of its checkpoints."""
    steps = sorted(step_of(found) for found in checkpoints(path / "checkpoints"))
    rows = []
    for step in steps:
        run = load_run(path, step=step, device=device)
        rows += evaluate_run(
            run, reference, samplers, samples=samples, guidance=run.guidance, noise_scale=variant.noise_scale
        )
    return rows


def _draw_samples(
    config: Comparison, variant: Variant, samplers: Sequence[Sampler], device: torch.device
) -> dict[str, str]:
    """Grids of the first seed's samples for each sampler, from the same noise for all; their paths."""
    run = load_run(run_config(config, variant, config.seed_list[0]).out, device=device)
    start = run.start(GRID, SAMPLING_SEED, variant.noise_scale)
    scaled = "" if variant.noise_scale == 1 else f"-noise-{variant.noise_scale}"
    pictures = {}
    for sampler in samplers:
        pictures[str(sampler)] = name = f"samples/{variant.slug}{scaled}-nfe-{sampler}.png"
        write_grid(config.out / name, run.sample(start, sampler, run.guidance).images.cpu())
    return pictures


def command(config: Comparison) -> str:
    """The command that reproduces a comparison: everything that is not at its default, but for where it is written."""
    words = ["immiscible", "compare", config.task]
    return command_line(words, config, always=("data", "couplings", "seeds"), never=("out",))
