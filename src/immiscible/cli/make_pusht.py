"""``immiscible make-pusht``."""

from __future__ import annotations

import dataclasses

from immiscible.cli.arguments import MakePushT, values_of
from immiscible.cli.results import report
from immiscible.config.recipes import PushTEpisodes
from immiscible.environments.demonstrate import make_demonstrations


def make_pusht(arguments: MakePushT) -> None:
    """Makes demonstrations of Push-T."""
    made = make_demonstrations(PushTEpisodes(**values_of(PushTEpisodes, arguments)))
    report(arguments.json, {"out": str(arguments.out), **dataclasses.asdict(made)}, f"{arguments.out}: {made}")
