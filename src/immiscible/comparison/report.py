"""Writes the report of a comparison: one HTML page that needs no other file, and its pictures as PNG files beside it.

What the page shows is gathered here, in the order of its sections; how it is set is in ``templates/report.html.jinja``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from immiscible.comparison.controls import too_short
from immiscible.comparison.findings import grouped_findings
from immiscible.comparison.formatting import at_calls, calls, count, joined, spread
from immiscible.comparison.plots import curve_name, draw, has_log_scale
from immiscible.comparison.prose import SINGLE_SEED, reading_notes, statement
from immiscible.comparison.schema import Contender, Summary, check, final_score, main_metric, metrics_of, trained
from immiscible.comparison.tables import (
    cost_table,
    faults_table,
    name_of,
    noise_table,
    score_table,
    settings_table,
    steps_table,
    what_is_marked,
)
from immiscible.config.systems import is_system, system
from immiscible.io.files import write_bytes, write_text
from immiscible.pages.parts import Finding, Name, Picture
from immiscible.pages.rendering import render as render_page

PNG = b"\x89PNG\r\n\x1a\n"


def write_report(summary: Summary, directory: Path) -> Path:
    """Writes ``plots/*.png`` and ``report.html`` into a directory.

    Arguments:
        summary: The summary of a comparison.
        directory: Where to write. The sample grids that the summary names are read from here and embedded; the page
            says so where one is missing.

    Returns:
        The path of the page.

    Raises:
        InputError: If the summary has another format or lacks scores.
    """
    check(summary)
    plots = draw(summary)
    for name, png in plots.items():
        write_bytes(directory / "plots" / f"{name}.png", png)
    path = directory / "report.html"
    write_text(path, render(summary, plots, directory))
    return path


def render(summary: Summary, plots: Mapping[str, bytes], directory: Path) -> str:
    """The page as text.

    Arguments:
        summary: The summary of a comparison.
        plots: PNG files by name, from :func:`immiscible.comparison.plots.draw`.
        directory: Where the sample grids are.
    """
    return render_page("immiscible.comparison", "report.html.jinja", **_view(summary, plots, directory))


def _view(summary: Summary, plots: Mapping[str, bytes], directory: Path) -> dict[str, Any]:
    """What each part of the page shows."""
    first, task = summary["seeds"][0], summary["task"]
    what = system(task).title if is_system(task) else task
    return {
        "title": f"{what[:1].upper()}{what[1:]} on {summary['data']['name']}",
        "contenders": count(len(trained(summary)), "coupling"),
        "statement": statement(summary),
        "single_seed": SINGLE_SEED if len(summary["seeds"]) == 1 else "",
        "too_short": too_short(summary),
        "groups": _findings(summary),
        "curves_note": _curves_note(summary),
        "curves": [_curve(summary, plots, nfe) for nfe in summary["nfes"]],
        "marked": what_is_marked(summary),
        "final": _final(summary, plots),
        "score_tables": [score_table(summary, metric) for metric in metrics_of(summary).values()],
        "steps": steps_table(summary),
        "faults": faults_table(summary),
        "cost": cost_table(summary),
        "warnings": {name: found["warning"] for name, found in trained(summary).items() if found["warning"]},
        "noise": noise_table(summary),
        "samples_note": f"By the networks of seed {first}, all from the same noise: the same place, the same start.",
        "samples": _samples(summary, directory),
        "command": summary["command"],
        "couplings": [(name_of(summary, name), _facts(result)) for name, result in summary["couplings"].items()],
        "settings": [
            settings_table("Training", summary["config"]),
            settings_table("Environment", summary["environment"]),
        ],
        "reading": reading_notes(summary),
    }


def _findings(summary: Summary) -> dict[str, list[Finding]]:
    return {
        question: [_subject_first(summary, sentence) for sentence in sentences]
        for question, sentences in grouped_findings(summary).items()
    }


def _subject_first(summary: Summary, sentence: str) -> Finding:
    """A sentence apart from the name of the coupling that it begins with, and figures kept with their units."""
    sentence = re.sub(" (?=%)| (?=± )|(?<=±) ", "\N{NO-BREAK SPACE}", sentence)
    for name in summary["couplings"]:
        if sentence.startswith((f"{name} ", f"{name}:")):
            return Finding(name, sentence[len(name) :])
    return Finding("", sentence)


def _curves_note(summary: Summary) -> str:
    seeds, metric = len(summary["seeds"]), main_metric(summary)
    band = "One seed, so there is no band"
    if seeds > 1:
        band = f"Mean of {seeds} seeds, the band is ± one standard deviation"
    scale = " on a log scale" if has_log_scale(metric) else ""
    return f"{band}. {metric.title}{scale}, {metric.better} is better."


def _curve(summary: Summary, plots: Mapping[str, bytes], nfe: str) -> Picture:
    metric = main_metric(summary)
    alt = f"{metric.title} against training steps, {calls(nfe)}. At the end: {_ends(summary, nfe)}."
    return _plot(plots, curve_name(nfe, metric), alt)


def _final(summary: Summary, plots: Mapping[str, bytes]) -> Picture:
    ends = " ".join(f"{calls(nfe)}: {_ends(summary, nfe)}." for nfe in summary["nfes"])
    return _plot(plots, "final", f"{main_metric(summary).title} at the end of training. {ends}")


def _plot(plots: Mapping[str, bytes], name: str, alt: str) -> Picture:
    return Picture(plots[name], alt, plots[f"{name}-dark"])


def _ends(summary: Summary, nfe: str) -> str:
    metric = main_metric(summary)
    return joined(f"{name} {spread(final_score(summary, name, nfe, metric))}" for name in summary["couplings"])


@dataclass(frozen=True)
class Grid:
    """The samples of one coupling: None for a picture that is not there."""

    name: Name
    picture: Picture | None
    score: str


def _samples(summary: Summary, directory: Path) -> dict[str, list[Grid]]:
    """The grids by the number of network calls; nothing where no coupling has any."""
    if not any(result["samples"] for result in summary["couplings"].values()):
        return {}
    return {
        calls(nfe): [_grid(summary, name, nfe, directory) for name in summary["couplings"]] for nfe in summary["nfes"]
    }


def _grid(summary: Summary, name: str, nfe: str, directory: Path) -> Grid:
    metric = main_metric(summary)
    png = _read_png(directory, summary["couplings"][name]["samples"].get(nfe, ""))
    picture = Picture(png, f"Grid of samples of {name} {at_calls([nfe])}") if png else None
    score = f"{metric.title} {spread(final_score(summary, name, nfe, metric))}"
    return Grid(name_of(summary, name), picture, score)


def _read_png(directory: Path, relative: str) -> bytes | None:
    """A picture inside the directory; anything else that the path may point at is left alone."""
    path = (directory / relative).resolve()
    if not path.is_relative_to(directory.resolve()) or not path.is_file():
        return None
    content = path.read_bytes()
    return content if content.startswith(PNG) else None


def _facts(result: Contender) -> dict[str, str]:
    said = result["description"]
    return {"Moves": said["moves"], "Law of the noise": said["marginal"], "Cost": said["cost"]}
