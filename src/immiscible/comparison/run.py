"""Trains and scores every coupling of a comparison, from the same weights, on the same data order, noise and times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from immiscible.comparison.attempts import run_all
from immiscible.comparison.plan import (
    check_starts,
    claim_directory,
    command,
    evaluated_every,
    has_prior,
    run_config,
    samplers_of,
    variants_of,
)
from immiscible.comparison.report import write_report
from immiscible.comparison.schema import Summary
from immiscible.comparison.scorer import Scorer, scoring_device
from immiscible.comparison.summary import Trained, add_prior, scores_of, summarise
from immiscible.comparison.variants import PRIOR_OF_ALL, Variant
from immiscible.config.comparison import Comparison
from immiscible.config.groups import RunConfig
from immiscible.config.systems import system
from immiscible.errors import InputError
from immiscible.io.console import say
from immiscible.io.files import write_json
from immiscible.io.locks import locked
from immiscible.io.outputs import check_output, folder_of
from immiscible.runs.directory import SUMMARY
from immiscible.runs.train import train
from immiscible.tasks.registry import load_data


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
    variants = variants_of(config)
    couplings = [variant for variant in variants if not variant.prior]
    runs = [(variant, run_config(config, variant, seed)) for seed in config.seed_list for variant in couplings]
    samplers = samplers_of(config)
    check_starts(config, variants, samplers)
    device = scoring_device(runs[0][1])
    with locked(config.out, together=True):
        data: Any = load_data(config)
        scorer = Scorer.of(config, data, samplers, device)
        claim_directory(config)
        if scorer.scoring.features:
            say(f"scores by {scorer.scoring.features}")
        if scorer.scoring.warning:
            say(f"warning: {scorer.scoring.warning}")
        if faults := scorer.scoring.faults:
            say(f"{'warning: ' if faults['missed'] else ''}{faults['verdict']}")

        def run_one(variant: Variant, run: RunConfig) -> Trained:
            say(f"{variant.name}, seed {run.seed}: training")
            summary = train(run, data=data)
            if summary["overhead_percent"] is None:
                raise InputError(f"{run.out} must have its metrics.jsonl, got none: remove it, to train it again.")
            say(f"{variant.name}, seed {run.seed}: scoring")
            return Trained(variant.name, run.seed, run.out, summary, scorer.score(run.out, variant))

        trained, left_out = run_all(runs, run_one)
        # Samples are of the first seed.
        whole = [(variant, run) for variant, run in runs[: len(couplings)] if variant.name not in left_out]
        pictures = {variant.name: scorer.draw(run.out, variant, config.out) for variant, run in whole}
        summary = summarise(config, command(config), scorer.scoring, trained, pictures)
        _add_priors(summary, config, variants, scorer)
        if left_out:
            summary["left_out"] = left_out
        if gaps := _gaps(config, trained):
            summary["gaps"] = gaps
        report = write_report(summary, config.out)
        write_json(config.out / SUMMARY, summary)
    say(f"report: {report}")
    return summary


def _add_priors(summary: Summary, config: Comparison, variants: Sequence[Variant], scorer: Scorer) -> None:
    """Scores the priors among the contenders, and the one that the networks are held to."""
    if not has_prior(system(config.task)):
        return
    by_class = bool(getattr(config, "conditional", False))
    asked = [variant for variant in variants if variant.prior]
    for variant in asked or [PRIOR_OF_ALL]:
        say(f"{variant.name}: scoring")
        prior = scorer.prior(variant.prior, by_class)
        row = scorer.score_prior(prior, config.out)
        if variant in asked:
            add_prior(summary, variant.name, row, scorer.draw_prior(prior, variant, config.out))
        if "prior" not in summary:
            summary["prior"] = {"name": variant.name, "scores": scores_of(summary, row)}


def _gaps(config: Comparison, trained: Sequence[Trained]) -> list[str]:
    """The points that curves lack, since checkpoints were removed or damaged after they had been written."""
    every = evaluated_every(config)
    expected = {*range(every, config.steps, every), config.steps}
    lacking = [(run, sorted(expected - {row["step"] for row in run.rows})) for run in trained]
    return [
        f"{run.coupling}, seed {run.seed}: there is no checkpoint of step {', '.join(map(str, steps))}, so its curves "
        f"have no point there. Remove {run.path} to train it again."
        for run, steps in lacking
        if steps
    ]
