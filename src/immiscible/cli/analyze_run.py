"""``immiscible analyze run``."""

from __future__ import annotations

from typing import Any

from immiscible.cli.arguments import AnalyzeRun
from immiscible.cli.results import report
from immiscible.comparison.summary import environment
from immiscible.config.command import command_line
from immiscible.config.systems import system
from immiscible.inspection.opening import Inspected, Reader, open_runs, reader_of
from immiscible.inspection.page import write_inspection
from immiscible.inspection.study import Findings, Settings, chosen, measure
from immiscible.io.console import Stages
from immiscible.io.locks import locked
from immiscible.io.outputs import check_output
from immiscible.pages.words import number
from immiscible.training.launcher import device_named


def analyze_run(arguments: AnalyzeRun) -> None:
    """Measures runs and writes the page."""
    settings = Settings(
        arguments.num,
        arguments.starts,
        arguments.steps,
        chosen(arguments.measure),
        arguments.seed,
        arguments.features,
    )

    def check() -> None:
        check_output(arguments.out, "new", inputs=arguments.runs)

    check()
    runs = open_runs(arguments.runs, arguments.nfe, device_named(arguments.device))
    with locked(arguments.out, directory=False, check=check), Stages() as stages:
        reader = reader_of(runs, settings.features, arguments.data, arguments.held_out)
        found = {run.subject.name: measure(run, reader, settings, stages.begin) for run in runs}
        inspection = {
            "command": _command(arguments),
            "data": _about(reader),
            "features": reader.reference.features.name,
            "settings": settings.as_dict(),
            "environment": environment() | {"device": str(runs[0].run.device)},
            "runs": {run.subject.name: _figures(run, found[run.subject.name]) for run in runs},
        }
        strips = {name: findings.strip for name, findings in found.items() if findings.strip is not None}
        page = write_inspection(inspection, strips, arguments.out)
    report(arguments.json, inspection, "\n".join([*_headlines(inspection["runs"]), f"see {page}"]), indent=2)


def _command(arguments: AnalyzeRun) -> str:
    words = ["immiscible", "analyze", "run", *map(str, arguments.runs)]
    return command_line(words, arguments, never=("runs", "json", "out"))


def _about(reader: Reader) -> dict[str, Any]:
    """Facts about the data."""
    return {
        "name": reader.data.name,
        "count": len(reader.data),
        "shape": list(reader.data.shape),
        "classes": reader.data.classes,
        "held_out": 0 if reader.held_out is None else len(reader.held_out),
    }


def _figures(inspected: Inspected, findings: Findings) -> dict[str, Any]:
    """A run with what was found of it."""
    run, subject = inspected.run, inspected.subject
    guided = "" if subject.guidance == 1 else f", guidance {subject.guidance:g}"
    facts = {
        "path": str(run.path),
        "system": system(run.config.task).title,
        "coupling": run.config.coupling,
        "trained": f"{run.step:,} steps",
        "sampler": f"{subject.sampler.name}, {subject.sampler} calls{guided}",
    }
    return {"facts": facts, "measurements": findings.figures, "left_out": findings.left_out}


def _headlines(runs: dict[str, Any]) -> list[str]:
    """A line for each run, and one for each thing that was left out."""
    lines = []
    for name, run in runs.items():
        found, said = run["measurements"], []
        if "steps" in found:
            said.append(f"FID of the first prediction {number(found['steps'][-1]['fid'][0])}")
        if "straightness" in found:
            said.append(f"curvature {number(found['straightness']['curvature']['curvature'], 3)}")
        if "transport" in found:
            pairs, mapped = (found["transport"][key]["reduction"] for key in ("training", "model"))
            said.append(f"transport {number(mapped, 1)} % less than by chance (pairs {number(pairs, 1)} %)")
        if "memorisation" in found:
            said.append(f"copies {number(100 * found['memorisation']['copies'], 1)} %")
            said.append(f"FID {number(found['memorisation']['fid'])}")
        lines.append(f"{name}: {', '.join(said) or 'nothing could be measured'}")
        lines += [f"{name}: {what} left out: {reason}" for what, reason in run["left_out"].items()]
    return lines
