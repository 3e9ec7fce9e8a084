"""The tables of a report: scores, steps to the baseline's quality, cost, the law of the noise, and the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from immiscible.comparison.elements import Markup, several, table, tag
from immiscible.comparison.formatting import count, decimals, number, spread
from immiscible.comparison.schema import (
    BASELINE,
    LOWER_IS_BETTER,
    SCORE_TITLES,
    CouplingResult,
    Point,
    Score,
    ScoreName,
    StepsRatio,
    Summary,
    final,
    others,
)
from immiscible.comparison.verdict import best

COLOURS = 6


def name_of(summary: Summary, name: str) -> Markup:
    """The name of a coupling behind a dot in its colour; it may break after a colon or an at sign."""
    place = "" if name == BASELINE else f" c{others(summary).index(name) % COLOURS}"
    swatch = tag("span", class_=f"swatch{place}", aria_hidden="true")
    first, *rest = re.split("(?<=[:@])", name)
    return several([tag("span", swatch, first, class_="name"), *(several([tag("wbr"), piece]) for piece in rest)])


def score_table(summary: Summary, score: ScoreName) -> Markup:
    """One score at the end of training: a row per coupling, a column per number of network calls."""
    columns = [_score_column(summary, score, nfe) for nfe in summary["nfes"]]
    rows = [(name_of(summary, name), [column[i] for column in columns]) for i, name in enumerate(summary["couplings"])]
    caption = [tag("b", SCORE_TITLES[score]), f", {'lower' if LOWER_IS_BETTER[score] else 'higher'} is better."]
    floor = (summary["noise_floor"] or {}).get(score)
    if floor is not None:
        caption.append(f" For scale: one half of the data against the other half scores {number(floor)}.")
    return table(several(caption), _headings(summary), rows)


def _headings(summary: Summary) -> list[str]:
    return ["Coupling", *(count(int(nfe), "call") if nfe.isdecimal() else nfe for nfe in summary["nfes"])]


def what_is_marked(summary: Summary) -> str:
    """What the figures in the score tables are, and which of them are marked."""
    if len(summary["seeds"]) == 1:
        return "One seed gives no spread, so nothing is marked as best."
    return (
        f"Mean ± standard deviation over {count(len(summary['seeds']), 'seed')}. Marked is a coupling that is ahead of "
        "every other one by more than the spread of the differences; where none is, nothing is marked."
    )


def _score_column(summary: Summary, score: ScoreName, nfe: str) -> list[Markup]:
    points = [final(summary, name, nfe) for name in summary["couplings"]]
    places = decimals([point[score]["mean"] for point in points])
    winner = best(summary, nfe, score)
    cells = []
    for name, point in zip(summary["couplings"], points, strict=True):
        cell = figure(point[score], places)
        if name == winner:
            cell = tag("strong", cell, class_="best", title="best")
        if score == "fid":
            cell = several([cell, _true_calls(point, nfe)])
        cells.append(cell)
    return cells


def figure(score: Score, places: int) -> Markup:
    """A mean with its spread set smaller, so that the spread can take a line of its own on a phone."""
    mean, _, std = spread(score, places).partition(" ± ")
    return several([mean, tag("span", tag("small", f" ± {std}"), class_="spread") if std else ""])


def _true_calls(point: Point, nfe: str) -> Markup | str:
    """The network calls really made, where the heading does not say so."""
    if nfe.isdecimal() and abs(point["nfe_mean"] - int(nfe)) < 0.5:
        return ""
    return tag("small", f"{point['nfe_mean']:.0f} calls", class_="calls")


def steps_table(summary: Summary) -> Markup:
    """The training steps to the baseline's final FID, as a multiple of those that the baseline needed."""
    rows = []
    for name in others(summary):
        ratios = summary["couplings"][name]["steps_to_baseline"]
        cells = [_ratio(ratios[nfe]) if nfe in ratios else "not recorded" for nfe in summary["nfes"]]
        rows.append((name_of(summary, name), cells))
    meaning = (
        f", as a multiple of the steps that {BASELINE} took to first reach it: 0.50 is half the training, more than 1 "
        f"is longer. {_resolution(summary)}"
    )
    return table(several([tag("b", f"Steps to the final FID of {BASELINE}"), meaning]), _headings(summary), rows)


def _ratio(entry: StepsRatio) -> Markup:
    seeds = f"{entry['reached']} of {count(entry['of'], 'seed')}"
    if entry["ratio"] is None:
        return several(["not reached", tag("small", seeds, class_="seeds")])
    partly = "" if entry["reached"] == entry["of"] else tag("small", f"only {seeds}", class_="seeds")
    return several([figure(entry["ratio"], 2), partly])


def _resolution(summary: Summary) -> str:
    """How finely the curves were sampled, which bounds how exact a ratio of steps can be."""
    curve = [point["step"] for point in summary["couplings"][BASELINE]["curves"][summary["nfes"][0]]]
    gap = max(after - before for before, after in zip([0, *curve], curve, strict=False))
    several_seeds = len(summary["seeds"]) > 1
    partial = "Where some seeds did not reach it, the figure is of those that did. " if several_seeds else ""
    return f"{partial}Scores were taken every {count(gap, 'step')}, with straight lines between them."


def cost_table(summary: Summary) -> Markup:
    """What pairing costs in each training step."""
    results = summary["couplings"].values()
    rows = _measured(summary, [[r["pairing_ms"], r["step_ms"], r["overhead_percent"]] for r in results])
    meaning = " per training step, on the machine named below. The overhead is against a step without pairing."
    heads = ["Coupling", "pairing, ms", "whole step, ms", "overhead, %"]
    return table(several([tag("b", "Cost"), meaning]), heads, rows)


def noise_table(summary: Summary) -> Markup:
    """How far the paired noise is from N(0, I)."""
    results = list(summary["couplings"].values())
    measured = _measured(summary, [[r["drift"]["norm_ratio"], r["drift"]["mean_shift"]] for r in results], places=3)
    rows = [(name, [*cells, *_expected(r)]) for (name, cells), r in zip(measured, results, strict=True)]
    meaning = (
        " that training saw. E|n|²/D is 1 for exact noise. The shift is the length of the mean noise over √D; even "
        "exact noise shows some, of the size given beside it. The last column says whether the noise drifts."
    )
    heads = ["Coupling", tag("span", "E|n|²/D", class_="formula"), "mean shift", "shift of exact noise", "verdict"]
    return table(several([tag("b", "Law of the noise"), meaning]), heads, rows)


def _expected(result: CouplingResult) -> list[str]:
    return [number(result["drift"]["expected_mean_shift"], 3), "drifts" if result["biased"] else "no drift seen"]


def _measured(
    summary: Summary, figures: list[list[Score]], places: int | None = None
) -> list[tuple[Markup, list[Markup]]]:
    """Rows of figures, each column with decimals of its own unless they are given."""
    digits = [places if places is not None else decimals([s["mean"] for s in c]) for c in zip(*figures, strict=True)]
    return [
        (name_of(summary, name), [figure(score, n) for score, n in zip(row, digits, strict=True)])
        for name, row in zip(summary["couplings"], figures, strict=True)
    ]


def settings_table(title: str, settings: Mapping[str, Any]) -> Markup:
    """Names and values of settings."""
    rows: Sequence[tuple[object, Sequence[object]]] = [(key, [_setting(value)]) for key, value in settings.items()]
    return tag("div", table(tag("b", title), ["Name", "Value"], rows), class_="words")


def _setting(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
