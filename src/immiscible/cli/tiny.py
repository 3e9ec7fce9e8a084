"""``immiscible make-tiny-sd``."""

from __future__ import annotations

import dataclasses

from immiscible.cli.arguments import MakeTiny, values_of
from immiscible.cli.results import report
from immiscible.config.recipes import TinyPipeline
from immiscible.tasks.stable_diffusion import tiny


def make_tiny(arguments: MakeTiny) -> None:
    """Makes a tiny pipeline."""
    quality = tiny.make_tiny(TinyPipeline(**values_of(TinyPipeline, arguments)))
    result = {"out": str(arguments.out), **dataclasses.asdict(quality)}
    report(arguments.json, result, f"{arguments.out}: {quality}")
