"""``immiscible evaluate``."""

from __future__ import annotations

from dataclasses import replace

from immiscible.cli.arguments import Evaluate
from immiscible.cli.effects import check_evaluate
from immiscible.cli.evaluate_policy import evaluate_policy
from immiscible.cli.open_run import guidance_of, open_run, samplers_for, started
from immiscible.cli.results import report
from immiscible.cli.score_table import score_table
from immiscible.config.systems import imported, system
from immiscible.data.shards import Head
from immiscible.evaluation.clip import load_clip
from immiscible.evaluation.kept import FILE
from immiscible.evaluation.quality import ImageScorer, Trial, evaluate_painting
from immiscible.evaluation.scorer import RunScorer
from immiscible.io.locks import locked
from immiscible.io.outputs import check_output
from immiscible.runs.open import Run
from immiscible.samplers import Sampler


def evaluate(arguments: Evaluate) -> None:
    """Scores a run."""
    run = open_run(arguments)
    row = system(run.config.task)
    check_evaluate(arguments, row)
    samplers = samplers_for(arguments, run, row.nfe)
    run = started(arguments, run, samplers, arguments.data)
    kept = run.path / FILE
    check_output(kept, "new", flag=FILE, suffixes=[kept.suffix], overwrite=True)
    with locked(kept, directory=False):
        score = evaluate_policy if row.scored == "episodes" else _score
        score(arguments, run, samplers)


def _score(arguments: Evaluate, run: Run, samplers: list[Sampler]) -> None:
    """Scores a run whose scores are locked."""
    data = run.data(arguments.data)
    scorer: RunScorer = imported(system(run.config.task).scorer).of(arguments, data, run.device)
    guidance = guidance_of(arguments, run)
    if isinstance(scorer, ImageScorer) and arguments.clip:
        scorer = replace(scorer, clip=load_clip(arguments.clip, run.device))
    if arguments.task == "generate" or not isinstance(scorer, ImageScorer):
        rows = scorer.score(run, samplers, guidance, arguments.noise_scale)
    else:
        trial = Trial(scorer.samples, guidance)
        rows = evaluate_painting(run, data, scorer.reference, samplers, arguments.task, trial)
    if isinstance(scorer, ImageScorer) and scorer.faults.get("missed"):
        rows = [row | {"unfit": scorer.faults["verdict"]} for row in rows]
    if isinstance(data, Head):
        rows = [row | {"reference": f"{len(data)} images of {data.name}"} for row in rows]
    report(arguments.json, rows, score_table(run, rows, scorer.metrics), indent=2)
