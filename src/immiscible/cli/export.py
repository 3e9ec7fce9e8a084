"""``immiscible export``."""

from __future__ import annotations

from immiscible.cli.arguments import Export
from immiscible.cli.results import report
from immiscible.config.metric import IMAGE_METRICS
from immiscible.errors import InputError
from immiscible.evaluation.kept import read_rows
from immiscible.runs import export as exporting
from immiscible.runs.open import Run, load_run


def export(arguments: Export) -> None:
    """Exports a run."""
    exporting.check_export(arguments.run, arguments.out)
    run = load_run(arguments.run, step=arguments.step)
    if arguments.weights_only:
        name = _export_weights(arguments, run)
    else:
        name = exporting.export(run, arguments.out, sampler=arguments.sampler, scores=read_rows(run.path))
    url = exporting.push(arguments.out, arguments.push_to_hub, arguments.private) if arguments.push_to_hub else None
    result = {"out": str(arguments.out), "pipeline": name, "step": run.step, "url": url}
    what = name or "averaged weights"
    report(
        arguments.json, result, f"{arguments.out}: {what} of step {run.step}" + (f", uploaded to {url}" if url else "")
    )


def _export_weights(arguments: Export, run: Run) -> None:
    """Writes the averaged weights alone."""
    from immiscible.evaluation.policies import FORK, PUSHT
    from immiscible.runs.export_weights import export_weights

    if arguments.sampler != "auto":
        raise InputError(f"--sampler must be left out with --weights-only, got {arguments.sampler}: all remain.")
    kept = {metrics: read_rows(run.path, metrics) for metrics in (IMAGE_METRICS, PUSHT, FORK)}
    metrics = next((metrics for metrics, rows in kept.items() if rows), IMAGE_METRICS)
    export_weights(run, arguments.out, scores=kept[metrics], metrics=metrics)
