"""The scores of a run as a table."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rich.box import ASCII
from rich.console import Console
from rich.table import Table
from rich.text import Text

from immiscible.cli.results import draws_lines
from immiscible.config.metric import Metric
from immiscible.config.systems import system
from immiscible.errors import shown
from immiscible.runs.open import Run


def score_table(run: Run, rows: list[dict[str, Any]], metrics: Sequence[Metric]) -> str:
    """The scores as a table, with the features that they were computed in.

    Arguments:
        run: The run.
        rows: Its scores, a row for each sampler.
        metrics: What a row consists of.
    """
    first, scored = rows[0], system(run.config.task).scored
    # No part of a name is markup.
    count = f"{first['samples']} {'samples' if scored == 'images' else scored}"
    title = Text(", ".join(filter(None, [f"{shown(run.path)}, step {run.step}: {count}", first["features"]])))
    if "reference" in first:
        title.append(f", scored against {shown(first['reference'])}")
    if "clip_score" in first:
        metrics = [*metrics, Metric("clip_score", "CLIP", "higher", ".2f")]
    several = any(row["step"] != run.step for row in rows)
    columns = [*(["step"] if several else []), "NFE", "calls", *(metric.word for metric in metrics)]
    table = Table(*columns, title=title, title_justify="left")
    if not draws_lines():
        table.box = ASCII
    for row in rows:
        step = [f"mean of {len(row['mean_of_steps'])}" if "mean_of_steps" in row else str(row["step"])]
        figures = [_figure(row, metric) for metric in metrics]
        table.add_row(*(step if several else []), row["nfe"], str(row["calls"]), *figures)
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    for modes in rows[-1].get("modes", ()):
        console.print(_modes(modes), markup=False, highlight=False)
    for doubt in (first[name] for name in ("warning", "unfit") if name in first):
        console.print(f"warning: {doubt}", markup=False, highlight=False)
    return console.file.getvalue().rstrip()  # pyright: ignore[reportAttributeAccessIssue]


def _figure(row: dict[str, Any], metric: Metric) -> str:
    """A score, with its 95 % interval where there is one."""
    said = format(row[metric.name], metric.format)
    low, high = row.get("intervals", {}).get(metric.name, (None, None))
    return said if low is None else f"{said} [{format(low, metric.format)}, {format(high, metric.format)}]"


def _modes(modes: dict[str, Any]) -> str:
    """Which way round a policy turned the T from one start, as a line."""
    start = ", ".join(f"{number:.4g}" for number in modes["start"])
    if modes["dominance"] is None:
        return f"from ({start}): no episode decided between the ways round"
    low, high = modes["clockwise"][1:]
    return (
        f"from ({start}): {modes['clockwise'][0]:.0%} [{low:.0%}, {high:.0%}] clockwise, dominance "
        f"{modes['dominance']:.3f} (of a fair coin {modes['even_dominance']:.3f}), undecided {modes['undecided']:.0%}, "
        f"coverage {modes['coverage'][0]:.3f}"
    )
