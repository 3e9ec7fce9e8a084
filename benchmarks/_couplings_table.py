"""The table that the documentation shows, from the CSV of ``couplings.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

HEADING = """# What coupling costs

Measured by `python benchmarks/couplings.py` on {machine}; every figure is in `benchmarks/couplings.csv`. Ours and the
reference were called in turn in one run, after warming up, with the noise drawn inside both. Times are medians in
milliseconds, with the lowest in brackets; the ratio is ours over the reference, the median over neighbouring calls.
Where a target is missed, the table says no.

"""
COLUMNS = ("setting", "ours", "reference", "its time", "ratio", "target", "met")


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """The page, one table for each question."""
    text = HEADING.format(machine="; ".join(dict.fromkeys(row["machine"] for row in rows)))
    for question in dict.fromkeys(row["question"] for row in rows):
        body = [_line(row) for row in rows if row["question"] == question]
        head = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        text += f"## {question}\n\n" + "\n".join(head + body) + "\n\n"
    return text.rstrip() + "\n"


def _line(row: Mapping[str, str]) -> str:
    cells = (
        row["setting"],
        _time(row["ours_ms"], row["ours_min_ms"]),
        row["reference"],
        _time(row["reference_ms"], row["reference_min_ms"]),
        _ratio(row["ratio"], row["target"]),
        row["target"].replace("<=", "≤").replace(">=", "≥"),
        row["met"],
    )
    return "| " + " | ".join(cells) + " |"


def _time(median: str, least: str) -> str:
    return f"{median} ({least})" if median else ""


def _ratio(ratio: str, target: str) -> str:
    """A ratio whose target is a small fraction is easier to read the other way round."""
    return f"{ratio} ({1 / float(ratio):.0f} times faster)" if ratio and "/" in target else ratio
