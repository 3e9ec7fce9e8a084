"""``immiscible analyze``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from immiscible.analysis import study
from immiscible.analysis.page import write_analysis
from immiscible.cli.arguments import AnalyzeData, MeasureData
from immiscible.cli.results import report
from immiscible.comparison.summary import environment
from immiscible.config.command import command_line
from immiscible.data.measured import Measured, read_measured
from immiscible.errors import InputError
from immiscible.io.console import Stages, say
from immiscible.io.locks import locked
from immiscible.io.outputs import check_output, folder_of
from immiscible.training.launcher import device_named


def analyze_data(arguments: AnalyzeData) -> None:
    """Measures couplings on data and writes the page."""
    wanted, _ = study.chosen(arguments.measure), study.parse_all(arguments.couplings)

    def check() -> None:
        check_output(arguments.out, "new", inputs=inputs_of(arguments))

    check()
    data = measured(arguments)
    if arguments.within_classes and data.labels is None:
        raise InputError(f"--within-classes needs data with labels, got {data.name} without.")
    given = study.Study(
        data,
        arguments.couplings,
        arguments.cost_space,
        arguments.batch_size,
        arguments.points,
        arguments.seed,
        arguments.within_classes,
    )
    # The space is fitted now, so that data without such a space are refused before any work.
    _ = given.couplings
    say_part(data)
    with locked(arguments.out, directory=False, check=check):
        with Stages() as stages:
            results = study.measure(given, wanted, stages.begin)
        analysis = {
            "command": command_line(
                ["immiscible", "analyze", "data"], arguments, always=("data", "couplings"), never=("json", "out")
            ),
            "data": about(data),
            "settings": _settings(arguments),
            "environment": environment() | {"device": str(data.x.device)},
            "measurements": results,
        }
        page = write_analysis(analysis, arguments.out)
    report(arguments.json, analysis, "\n".join([*study.headlines(results), f"see {page}"]), indent=2)


def measured(arguments: MeasureData) -> Measured:
    """The data of a command, on its device."""
    device = device_named(arguments.device)
    data = read_measured(arguments.data, arguments, arguments.observations, arguments.samples, arguments.seed)
    if len(data) < 2:
        raise InputError(f"{data.name} must be at least 2 data, got {len(data)}: there is nothing to choose from.")
    return data.prepared(device, arguments.data_scale)


def say_part(data: Measured) -> None:
    """Says that only some of the data are measured, where that is so."""
    if len(data) < data.total:
        say(f"{data.name}: {data.total:,} data, of which {len(data):,} drawn at random are measured (--samples).")


def inputs_of(arguments: MeasureData) -> list[Path]:
    """What a command reads."""
    return folder_of(arguments.data)


def about(data: Measured) -> dict[str, Any]:
    """Facts about data."""
    return {
        "name": data.name,
        "total": data.total,
        "measured": len(data),
        "shape": list(data.shape),
        "classes": 0 if data.labels is None else int(data.labels.max()) + 1,
        "observations": 0 if data.observations is None else data.observations.shape[1],
    }


def _settings(arguments: AnalyzeData) -> dict[str, Any]:
    names = ("couplings", "cost_space", "within_classes", "batch_size", "samples", "points", "data_scale", "seed")
    return {name: dataclasses.asdict(arguments)[name] for name in names}
