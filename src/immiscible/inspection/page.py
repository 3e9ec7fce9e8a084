"""Writes an inspection of runs: ``analysis.json``, its pictures, and ``analysis.html``, which needs no other file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from immiscible.analysis.page import FORMAT, write_pictures
from immiscible.analysis.showing import Shown
from immiscible.inspection.showing import (
    name_of,
    show_memorisation,
    show_perturbation,
    show_steps,
    show_straightness,
    show_transport,
)
from immiscible.inspection.steps import Strip
from immiscible.io.files import write_bytes, write_json, write_text
from immiscible.pages.parts import Cell, Table, settings_table
from immiscible.pages.rendering import render
from immiscible.pages.words import count, joined

TITLES: dict[str, tuple[str, Callable[..., Shown]]] = {
    "steps": ("Step by step", show_steps),
    "perturbation": ("What stays where the start is perturbed", show_perturbation),
    "straightness": ("How straight paths are", show_straightness),
    "transport": ("Does the map inherit the coupling?", show_transport),
    "memorisation": ("Are samples new?", show_memorisation),
}


def write_inspection(inspection: Mapping[str, Any], strips: Mapping[str, Strip], directory: Path) -> Path:
    """Writes an inspection into a directory.

    Arguments:
        inspection: What was measured, as JSON values: ``data``, ``settings``, ``environment``, ``command``, and
            ``runs`` with ``facts``, ``measurements`` and ``left_out`` of each.
        strips: One sample step by step, by run.
        directory: Where to write.

    Returns:
        The path of the page.
    """
    sections = _sections(inspection["runs"], strips)
    for name, (_, shown, _) in sections.items():
        write_pictures(name, shown, directory)
        for place, (_, picture) in enumerate(shown.strips if shown else (), 1):
            write_bytes(directory / "plots" / f"strip-{place}.png", picture.png)
    path = directory / "analysis.html"
    write_text(path, _page(inspection, list(sections.values())))
    write_json(directory / "analysis.json", {"format": FORMAT, **inspection})
    return path


def _sections(
    runs: Mapping[str, Any], strips: Mapping[str, Strip]
) -> dict[str, tuple[str, Shown | None, dict[str, str]]]:
    """For each measurement its title, what is shown of it, and which runs were left out, by reason."""
    sections, names = {}, list(runs)
    for key, (title, show) in TITLES.items():
        found = {name: run["measurements"][key] for name, run in runs.items() if key in run["measurements"]}
        reasons: dict[str, list[str]] = {}
        for name, run in runs.items():
            if key in run["left_out"]:
                reasons.setdefault(run["left_out"][key], []).append(name)
        if found or reasons:
            more = (strips,) if key == "steps" else ()
            left_out = {f"{reason}.": joined(given) for reason, given in reasons.items()}
            sections[key] = (title, show(names, found, *more) if found else None, left_out)
    return sections


def _page(inspection: Mapping[str, Any], sections: Sequence[Any]) -> str:
    data, runs = inspection["data"], inspection["runs"]
    settings = {**inspection["settings"], **inspection["environment"]}
    settings["measure"] = joined(settings["measure"])
    held_out = f", and {data['held_out']:,} images that no run has seen" if data["held_out"] else ""
    return render(
        "immiscible.analysis",
        "analysis.html.jinja",
        title=f"Runs on {data['name']}, inspected",
        statement=f"{count(len(runs), 'run')} on {data['count']:,} images of shape {'×'.join(map(str, data['shape']))}"
        f"{held_out}. Features: {inspection['features']}.",
        sections=[("Runs", Shown("", tables=[_runs_table(runs)]), {}), *sections],
        command=inspection["command"],
        settings=settings_table(settings),
    )


def _runs_table(runs: Mapping[str, Any]) -> Table:
    names = list(runs)
    keys = ("system", "coupling", "trained", "sampler")
    rows = [(name_of(names, name), [Cell(str(run["facts"][key])) for key in keys]) for name, run in runs.items()]
    return Table("What is compared", ": the newest weights of each run.", ["run", *keys], rows)
