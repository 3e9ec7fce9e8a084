"""``immiscible describe``."""

from __future__ import annotations

import dataclasses

from immiscible import couplings
from immiscible.cli.arguments import Describe
from immiscible.cli.results import report


def describe(arguments: Describe) -> None:
    """Describes a coupling."""
    description = couplings.describe(arguments.coupling)
    report(arguments.json, dataclasses.asdict(description), str(description), indent=2)
