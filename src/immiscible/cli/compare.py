"""``immiscible compare``."""

from __future__ import annotations

from typing import Any

from immiscible.cli.arguments import values_of
from immiscible.cli.results import report
from immiscible.comparison import run
from immiscible.comparison.findings import findings
from immiscible.comparison.formatting import joined
from immiscible.config.comparison import comparison_of
from immiscible.errors import ToldError


def compare(arguments: Any) -> None:
    """Runs or resumes a comparison."""
    kind = comparison_of(arguments.task)
    summary = run.compare(kind(**values_of(kind, arguments)))
    report(arguments.json, summary, "\n".join(findings(summary)), indent=2)
    if left_out := summary.get("left_out"):
        raise ToldError(f"failed, and left out of the report: {joined(left_out)}.")
