"""``immiscible compare``."""

from __future__ import annotations

import json

from immiscible.cli.arguments import CompareConsistencyCommand, CompareDDIMCommand, CompareFlowCommand, values_of
from immiscible.comparison import run
from immiscible.comparison.findings import findings


def compare(arguments: CompareFlowCommand | CompareDDIMCommand | CompareConsistencyCommand) -> None:
    """Runs or resumes a comparison."""
    kind = arguments.comparison
    summary = run.compare(kind(**values_of(kind, arguments)))
    print(json.dumps(summary, indent=2) if arguments.json else "\n".join(findings(summary)))
