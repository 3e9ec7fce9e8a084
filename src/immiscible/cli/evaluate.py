"""``immiscible evaluate``."""

from __future__ import annotations

from immiscible.cli.arguments import Evaluate
from immiscible.cli.effects import check_evaluate
from immiscible.cli.open_run import guidance_of, open_run, samplers_for
from immiscible.cli.results import report
from immiscible.cli.score_table import score_table
from immiscible.config.systems import system
from immiscible.data.shards import Head
from immiscible.evaluation.clip import load_clip
from immiscible.evaluation.features import features_for
from immiscible.evaluation.quality import FILE, Trial, evaluate_painting, evaluate_run, sample_count
from immiscible.evaluation.scores import Reference
from immiscible.io.locks import locked
from immiscible.io.outputs import check_output
from immiscible.runs.open import Run
from immiscible.samplers import Sampler


def evaluate(arguments: Evaluate) -> None:
    """Scores a run."""
    run = open_run(arguments)
    text = system(run.config.task).prompted
    check_evaluate(arguments, text)
    samplers = samplers_for(arguments, run, system(run.config.task).nfe)
    kept = run.path / FILE
    check_output(kept, "new", flag=FILE, suffixes=[kept.suffix], overwrite=True)
    with locked(kept, directory=False):
        _score(arguments, run, samplers)


def _score(arguments: Evaluate, run: Run, samplers: list[Sampler]) -> None:
    """Scores a run whose scores are locked."""
    data = run.data(arguments.data)
    samples = sample_count(arguments.num, data)
    reference = Reference(features_for(data, arguments.features, device=run.device), data)
    guidance = guidance_of(arguments, run)
    if arguments.task == "generate":
        clip = load_clip(arguments.clip, run.device) if arguments.clip else None
        rows = evaluate_run(run, reference, samplers, Trial(samples, guidance, arguments.noise_scale), clip)
    else:
        rows = evaluate_painting(run, data, reference, samplers, arguments.task, Trial(samples, guidance))
    if isinstance(data, Head):
        rows = [row | {"reference": f"{len(data)} images of {data.name}"} for row in rows]
    report(arguments.json, rows, score_table(run, rows), indent=2)
