"""The scores of a run as a table."""

from __future__ import annotations

import io
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


def score_table(run: Run, rows: list[dict[str, Any]]) -> str:
    """The scores as a table, with the features that they were computed in."""
    first, metrics = rows[0], system(run.config.task).metrics
    # No part of a name is markup.
    title = Text(f"{shown(run.path)}, step {run.step}: {first['samples']} samples, {first['features']}")
    if "reference" in first:
        title.append(f", scored against {shown(first['reference'])}")
    if "clip_score" in first:
        metrics = (*metrics, Metric("clip_score", "CLIP", "higher", ".2f"))
    table = Table("NFE", "calls", *(metric.word for metric in metrics), title=title, title_justify="left")
    if not draws_lines():
        table.box = ASCII
    for row in rows:
        table.add_row(row["nfe"], str(row["calls"]), *(format(row[metric.name], metric.format) for metric in metrics))
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    if "warning" in first:
        console.print(f"warning: {first['warning']}", markup=False, highlight=False)
    return console.file.getvalue().rstrip()  # pyright: ignore[reportAttributeAccessIssue]
