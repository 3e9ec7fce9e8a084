"""``immiscible compare``."""

from __future__ import annotations

import json

from immiscible.cli.arguments import CompareFlowCommand, values_of
from immiscible.comparison import run
from immiscible.comparison.config import CompareFlow
from immiscible.comparison.findings import findings


def compare_flow(arguments: CompareFlowCommand) -> None:
    """Runs or resumes a comparison."""
    summary = run.compare_flow(CompareFlow(**values_of(CompareFlow, arguments)))
    print(json.dumps(summary, indent=2) if arguments.json else "\n".join(findings(summary)))
