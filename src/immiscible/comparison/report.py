"""Writes the report of a comparison: one HTML page that holds everything in itself, and its pictures as PNG files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from immiscible.comparison.elements import Markup, bullets, data_uri, page, picture, section, several, tag
from immiscible.comparison.findings import grouped_findings
from immiscible.comparison.formatting import at_calls, calls, count, joined, spread
from immiscible.comparison.plots import curve_name, draw
from immiscible.comparison.prose import SINGLE_SEED, reading_notes, statement
from immiscible.comparison.schema import BASELINE, SCORE_NAMES, CouplingResult, Summary, check, final, others
from immiscible.comparison.style import STYLE
from immiscible.comparison.tables import (
    cost_table,
    name_of,
    noise_table,
    score_table,
    settings_table,
    steps_table,
    what_is_marked,
)
from immiscible.io.files import write_bytes, write_text

PNG = b"\x89PNG\r\n\x1a\n"
TASKS = {"flow": "Flow matching", "ddim": "Diffusion", "consistency": "Consistency training"}


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
    """The page as text, see :func:`write_report`."""
    title = f"{TASKS.get(summary['task'], summary['task'])} on {summary['data']['name']}"
    again = tag("p", "This command repeats the comparison:"), tag("pre", tag("code", summary["command"]), tabindex="0")
    parts = [
        tag("h1", f"{title}: {count(len(summary['couplings']), 'coupling')} compared"),
        tag("p", statement(summary), class_="lead"),
        _findings(summary),
        _curves(summary, plots),
        _scores(summary, plots),
        _steps(summary),
        section("What pairing costs", cost_table(summary)),
        _noise(summary),
        _samples(summary, directory),
        section("Run it again", *again),
        _settings(summary),
        section("How to read this", bullets(reading_notes(summary))),
    ]
    return page(f"{title}: couplings compared", STYLE, several(parts))


def _findings(summary: Summary) -> Markup:
    note = tag("p", SINGLE_SEED, class_="note") if len(summary["seeds"]) == 1 else ""
    groups = [
        several([tag("h3", question), bullets(_name_first(summary, sentence) for sentence in sentences)])
        for question, sentences in grouped_findings(summary).items()
    ]
    return section("What came out", note, *groups)


def _name_first(summary: Summary, sentence: str) -> Markup:
    """A sentence with the name of the coupling that it begins with set in bold, and figures kept with their units."""
    sentence = re.sub(" (?=%)| (?=± )|(?<=±) ", "\N{NO-BREAK SPACE}", sentence)
    for name in summary["couplings"]:
        if sentence.startswith((f"{name} ", f"{name}:")):
            return several([tag("b", name), sentence[len(name) :]])
    return several([sentence])


def _curves(summary: Summary, plots: Mapping[str, bytes]) -> Markup:
    seeds = len(summary["seeds"])
    band = (
        "One seed, so there is no band"
        if seeds == 1
        else f"Mean of {seeds} seeds, the band is ± one standard deviation"
    )
    figures = []
    for nfe in summary["nfes"]:
        alt = f"FID against training steps, {calls(nfe)}. At the end: {_ends(summary, nfe)}."
        figures.append(tag("figure", _plot(plots, curve_name(nfe), alt)))
    note = tag("p", f"{band}. FID on a log scale, lower is better.", class_="soft")
    return section("Quality against training steps", note, tag("div", *figures, class_="panels"))


def _plot(plots: Mapping[str, bytes], name: str, alt: str) -> Markup:
    return picture(plots[name], plots[f"{name}-dark"], alt)


def _ends(summary: Summary, nfe: str) -> str:
    return joined(f"{name} {spread(final(summary, name, nfe)['fid'])}" for name in summary["couplings"])


def _scores(summary: Summary, plots: Mapping[str, bytes]) -> Markup:
    alt = "FID at the end of training. " + " ".join(f"{calls(nfe)}: {_ends(summary, nfe)}." for nfe in summary["nfes"])
    shown = tag("figure", _plot(plots, "final", alt), class_="wide")
    tables = [score_table(summary, score) for score in SCORE_NAMES]
    return section("Scores at the end of training", tag("p", what_is_marked(summary), class_="soft"), shown, *tables)


def _steps(summary: Summary) -> Markup | str:
    if BASELINE not in summary["couplings"] or not others(summary):
        return ""
    return section("Training steps saved or lost", steps_table(summary))


def _noise(summary: Summary) -> Markup:
    warned = [(name, result["warning"]) for name, result in summary["couplings"].items() if result["warning"]]
    warnings = [tag("p", tag("strong", f"Warning, {name}: "), warning, class_="note") for name, warning in warned]
    return section("The law of the noise", *warnings, noise_table(summary))


def _samples(summary: Summary, directory: Path) -> Markup:
    same = f"By the networks of seed {summary['seeds'][0]}, all from the same noise: the same place, the same start."
    parts = [tag("p", same, class_="soft")]
    for nfe in summary["nfes"]:
        grids = [_grid(summary, name, nfe, directory) for name in summary["couplings"]]
        parts += [tag("h3", calls(nfe)), tag("div", *grids, class_="grids")]
    return section("Samples side by side", *parts)


def _grid(summary: Summary, name: str, nfe: str, directory: Path) -> Markup:
    png = _read_png(directory, summary["couplings"][name]["samples"].get(nfe, ""))
    if png is None:
        shown = tag("p", "The picture is not beside this report.", class_="soft")
    else:
        shown = tag("img", src=data_uri(png), alt=f"Grid of samples of {name} {at_calls([nfe])}")
    fid = tag("small", f"FID {spread(final(summary, name, nfe)['fid'])}")
    return tag("figure", shown, tag("figcaption", name_of(summary, name), " ", fid))


def _read_png(directory: Path, relative: str) -> bytes | None:
    """A picture inside the directory; anything else that the path may point at is left alone."""
    path = (directory / relative).resolve()
    if not path.is_relative_to(directory.resolve()) or not path.is_file():
        return None
    content = path.read_bytes()
    return content if content.startswith(PNG) else None


def _settings(summary: Summary) -> Markup:
    couplings = [_described(summary, name, result) for name, result in summary["couplings"].items()]
    tables = [settings_table("Training", summary["config"]), settings_table("Environment", summary["environment"])]
    return section("Couplings, settings, environment", tag("dl", *couplings), tag("div", *tables, class_="columns"))


def _described(summary: Summary, name: str, result: CouplingResult) -> Markup:
    said = result["description"]
    lines = [("Moves", said["moves"]), ("Law of the noise", said["marginal"]), ("Cost", said["cost"])]
    return several(
        [tag("dt", name_of(summary, name)), *(tag("dd", tag("b", what), f": {text}") for what, text in lines)]
    )
