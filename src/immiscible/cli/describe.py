"""``immiscible describe``."""

from __future__ import annotations

import dataclasses
import json

from immiscible import couplings
from immiscible.cli.arguments import Describe


def describe(arguments: Describe) -> None:
    """Describes a coupling."""
    description = couplings.describe(arguments.coupling)
    print(json.dumps(dataclasses.asdict(description), indent=2) if arguments.json else description)
