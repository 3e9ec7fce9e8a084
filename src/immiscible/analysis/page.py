"""Writes an analysis: ``analysis.json``, its pictures, and ``analysis.html``, which needs no other file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from immiscible.analysis.showing import Results, Shown
from immiscible.analysis.study import LEFT_OUT, MEASUREMENTS
from immiscible.io.files import write_bytes, write_json, write_text
from immiscible.pages.parts import settings_table
from immiscible.pages.rendering import render
from immiscible.pages.words import count, joined

FORMAT = 1


def write_analysis(analysis: Mapping[str, Any], directory: Path) -> Path:
    """Writes an analysis into a directory.

    Arguments:
        analysis: What was measured: ``data``, ``settings``, ``command`` and ``measurements``, as JSON values.
        directory: Where to write.

    Returns:
        The path of the page.
    """
    sections = _sections(analysis["measurements"])
    for name, (_, shown, _) in zip(analysis["measurements"], sections, strict=True):
        write_pictures(name, shown, directory)
    path = directory / "analysis.html"
    write_text(path, _page(analysis, sections))
    write_json(directory / "analysis.json", {"format": FORMAT, **analysis})
    return path


def write_pictures(name: str, shown: Shown | None, directory: Path) -> None:
    """Writes the pictures of a section, light and dark, each as a file of its own.

    Arguments:
        name: What the section measures.
        shown: What it shows, if anything.
        directory: The directory of the page.
    """
    for place, picture in enumerate(shown.pictures if shown else (), 1):
        stem = f"{name}-{place}" if place > 1 else name
        write_bytes(directory / "plots" / f"{stem}.png", picture.png)
        write_bytes(directory / "plots" / f"{stem}-dark.png", picture.dark)


def _page(analysis: Mapping[str, Any], sections: list[Any]) -> str:
    data, settings = analysis["data"], {**analysis["settings"], **analysis["environment"]}
    shape = "×".join(map(str, data["shape"]))
    names = next(iter(analysis["measurements"].values()))
    part = "" if data["measured"] == data["total"] else f", of which {data['measured']:,} drawn at random are measured"
    return render(
        "immiscible.analysis",
        "analysis.html.jinja",
        title=f"Couplings on {data['name']}, before any training",
        statement=f"{data['total']:,} data of shape {shape}{part}; {count(len(names), 'coupling')}: {joined(names)}.",
        sections=sections,
        command=analysis["command"],
        settings=settings_table(settings),
    )


def _sections(measurements: Mapping[str, Results]) -> list[tuple[str, Shown | None, dict[str, str]]]:
    """For each measurement its title, what is shown of it, and for which couplings it was left out by reason."""
    sections = []
    for measurement in MEASUREMENTS:
        if results := measurements.get(measurement.name):
            made = {name: result for name, result in results.items() if LEFT_OUT not in result}
            reasons: dict[str, list[str]] = {}
            for name in results.keys() - made.keys():
                reasons.setdefault(results[name][LEFT_OUT], []).append(name)
            shown = measurement.show(made) if made else None
            left_out = {reason: joined(sorted(names)) for reason, names in reasons.items()}
            sections.append((measurement.title, shown, left_out))
    return sections
