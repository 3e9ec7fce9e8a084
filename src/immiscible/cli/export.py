"""``immiscible export``."""

from __future__ import annotations

from immiscible.cli.arguments import Export
from immiscible.cli.results import report
from immiscible.evaluation.kept import read_rows
from immiscible.runs import export as exporting
from immiscible.runs.open import load_run


def export(arguments: Export) -> None:
    """Exports a run."""
    exporting.check_export(arguments.run, arguments.out)
    run = load_run(arguments.run, step=arguments.step)
    name = exporting.export(run, arguments.out, sampler=arguments.sampler, scores=read_rows(run.path))
    url = exporting.push(arguments.out, arguments.push_to_hub, arguments.private) if arguments.push_to_hub else None
    result = {"out": str(arguments.out), "pipeline": name, "step": run.step, "url": url}
    report(
        arguments.json, result, f"{arguments.out}: {name} of step {run.step}" + (f", uploaded to {url}" if url else "")
    )
