"""The tables of a report: scores, steps to the baseline's quality, cost, the law of the noise, and the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from immiscible.comparison.formatting import count, decimals, number, spread
from immiscible.comparison.schema import (
    BASELINE,
    CouplingResult,
    Point,
    Score,
    StepsRatio,
    Summary,
    final,
    main_metric,
    others,
    score_at,
    trained,
)
from immiscible.comparison.verdict import best
from immiscible.config.metric import Metric
from immiscible.pages.parts import Cell, Name, Table

COLOURS = 6


def name_of(summary: Summary, name: str) -> Name:
    """The name of a coupling behind a dot in its colour."""
    return Name(name, "baseline" if name == BASELINE else f"c{others(summary).index(name) % COLOURS}")


def score_table(summary: Summary, metric: Metric) -> Table:
    """One score at the end of training: a row per coupling, a column per number of network calls."""
    columns = [_score_column(summary, metric, nfe) for nfe in summary["nfes"]]
    rows = [(name_of(summary, name), [column[i] for column in columns]) for i, name in enumerate(summary["couplings"])]
    meaning = f", {metric.better} is better."
    floor = (summary["noise_floor"] or {}).get(metric.name)
    if floor is not None:
        meaning += f" For scale: one half of the data against the other half scores {number(floor)}."
    return Table(metric.title, meaning, _headings(summary), rows)


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


def _score_column(summary: Summary, metric: Metric, nfe: str) -> list[Cell]:
    points = {name: final(summary, name, nfe) for name in summary["couplings"]}
    places = decimals([score_at(point, metric)["mean"] for point in points.values()])
    winner, first = best(summary, nfe, metric.name), metric == main_metric(summary)
    return [
        score_cell(score_at(point, metric), places, _true_calls(point, nfe) if first else "", best=name == winner)
        for name, point in points.items()
    ]


def score_cell(score: Score, places: int, note: str = "", *, best: bool = False) -> Cell:
    """A mean with its spread.

    Arguments:
        score: The score.
        places: The number of decimals.
        note: What stands below.
        best: Whether it is marked as the best.
    """
    mean, _, std = spread(score, places).partition(" ± ")
    return Cell(mean, std, note, best)


def _true_calls(point: Point, nfe: str) -> str:
    """The network calls really made, where the heading does not say so."""
    if nfe.isdecimal() and abs(point["nfe_mean"] - int(nfe)) < 0.5:
        return ""
    return f"{point['nfe_mean']:.0f} calls"


def steps_table(summary: Summary) -> Table | None:
    """The training steps to the baseline's final score, as a multiple of those that the baseline needed.

    None where there is no baseline, or nothing beside it.
    """
    if BASELINE not in summary["couplings"] or not others(summary):
        return None
    rows = []
    for name in others(summary):
        ratios = summary["couplings"][name]["steps_to_baseline"]
        cells = [_ratio(ratios[nfe]) if nfe in ratios else Cell("not recorded") for nfe in summary["nfes"]]
        rows.append((name_of(summary, name), cells))
    meaning = (
        f", as a multiple of the steps that {BASELINE} took to first reach it: 0.50 is half the training, more than 1 "
        f"is longer. {_resolution(summary)}"
    )
    return Table(f"Steps to the final {main_metric(summary).word} of {BASELINE}", meaning, _headings(summary), rows)


def _ratio(entry: StepsRatio) -> Cell:
    seeds = f"{entry['reached']} of {count(entry['of'], 'seed')}"
    if entry["ratio"] is None:
        return Cell("not reached", note=seeds)
    return score_cell(entry["ratio"], 2, "" if entry["reached"] == entry["of"] else f"only {seeds}")


def _resolution(summary: Summary) -> str:
    """How finely the curves were sampled, which bounds how exact a ratio of steps can be."""
    curve = [point["step"] for point in summary["couplings"][BASELINE]["curves"][summary["nfes"][0]]]
    gap = max(after - before for before, after in zip([0, *curve], curve, strict=False))
    several_seeds = len(summary["seeds"]) > 1
    partial = "Where some seeds did not reach it, the figure is of those that did. " if several_seeds else ""
    return f"{partial}Scores were taken every {count(gap, 'step')}, with straight lines between them."


def cost_table(summary: Summary) -> Table:
    """What pairing costs in each training step."""
    results = trained(summary).values()
    rows = _measured(summary, [[r["pairing_ms"], r["step_ms"], r["overhead_percent"]] for r in results])
    meaning = " per training step, on the machine named below. The overhead is against a step without pairing."
    return Table("Cost", meaning, ["Coupling", "pairing, ms", "whole step, ms", "overhead, %"], rows)


def noise_table(summary: Summary) -> Table:
    """How far the paired noise is from N(0, I)."""
    results = list(trained(summary).values())
    measured = _measured(summary, [[r["drift"]["norm_ratio"], r["drift"]["mean_shift"]] for r in results], places=3)
    rows = [(name, [*cells, *_expected(r)]) for (name, cells), r in zip(measured, results, strict=True)]
    meaning = (
        " that training saw. E|n|²/D is 1 for exact noise. The shift is the length of the mean noise over √D; even "
        "exact noise shows some, of the size given beside it. The last column says whether the noise drifts."
    )
    heads = ["Coupling", "E|n|²/D", "mean shift", "shift of exact noise", "verdict"]
    return Table("Law of the noise", meaning, heads, rows)


def _expected(result: CouplingResult) -> list[Cell]:
    shift = number(result["drift"]["expected_mean_shift"], 3)
    return [Cell(shift), Cell("drifts" if result["biased"] else "no drift seen")]


def _measured(summary: Summary, figures: list[list[Score]], places: int | None = None) -> list[tuple[Name, list[Cell]]]:
    """Rows of figures, each column with decimals of its own unless they are given."""
    digits = [places if places is not None else decimals([s["mean"] for s in c]) for c in zip(*figures, strict=True)]
    return [
        (name_of(summary, name), [score_cell(score, n) for score, n in zip(row, digits, strict=True)])
        for name, row in zip(trained(summary), figures, strict=True)
    ]


def faults_table(summary: Summary) -> Table | None:
    """How the features score known faults, where that was measured."""
    faults = summary.get("faults")
    if not faults or not faults["rungs"]:
        return None
    told = {
        f"{rung['fault']}, {word}": score
        for rung in faults["rungs"]
        for word, score in zip(rung["strengths"], rung["scores"], strict=True)
    }
    scores = {"none: real images": faults["real"], **told}
    places = decimals(list(scores.values()))
    rows: Sequence[tuple[Name, Sequence[Cell]]] = [
        (Name(name), [Cell(number(score, places))]) for name, score in scores.items()
    ]
    meaning = (
        f" of {faults['images']:,} real images with each fault, against as many others, in the features of the scores "
        f"above. {faults['verdict']}"
    )
    return Table("FID", meaning, ["Fault", "FID"], rows)


def settings_table(title: str, settings: Mapping[str, Any]) -> Table:
    """Names and values of settings."""
    rows: Sequence[tuple[Name, Sequence[Cell]]] = [(Name(key), [Cell(_setting(v))]) for key, v in settings.items()]
    return Table(title, "", ["Name", "Value"], rows)


def _setting(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
