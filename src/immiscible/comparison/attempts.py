"""Runs all that a comparison consists of, and leaves out what diverges."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from immiscible.comparison.summary import Trained
from immiscible.comparison.variants import Variant
from immiscible.config.groups import RunConfig
from immiscible.io.console import say
from immiscible.samplers import NotFinite
from immiscible.training.progress import TrainingError


def run_all(
    runs: Sequence[tuple[Variant, RunConfig]], run_one: Callable[[Variant, RunConfig], Trained]
) -> tuple[list[Trained], dict[str, str]]:
    """All runs of the couplings that do not diverge, and why the others are left out."""
    trained: list[Trained] = []
    left_out: dict[str, str] = {}
    for variant, run in runs:
        if variant.name in left_out:
            continue
        try:
            trained.append(run_one(variant, run))
        except (TrainingError, NotFinite) as error:
            # The others are still worth comparing. Where none is left, the error says all there is.
            left_out[variant.name] = f"with seed {run.seed}, {error}"
            say(f"warning: {variant.name} is left out: {left_out[variant.name]}")
            if all(other.name in left_out for other, _ in runs):
                raise
    return [run for run in trained if run.coupling not in left_out], left_out
