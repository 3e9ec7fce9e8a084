"""What a comparison consists of: contenders and their runs, the command that repeats it, and a directory of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from immiscible.comparison.variants import Variant, parse_variants
from immiscible.config.command import command_line
from immiscible.config.comparison import Comparison
from immiscible.config.groups import RunConfig, common
from immiscible.config.systems import System, config_of, system
from immiscible.config.values import check_needs
from immiscible.errors import InputError
from immiscible.io.files import write_json
from immiscible.io.outputs import COMPARISON, claim
from immiscible.runs.directory import SUMMARY
from immiscible.runs.prior import check_from_noise
from immiscible.runs.source import check_samplers
from immiscible.samplers import Sampler, parse_samplers
from immiscible.samplers.starting import check_start


def variants_of(config: Comparison) -> list[Variant]:
    """The contenders of a comparison, the baseline first.

    Raises:
        InputError: If they are not spelled as couplings with settings.
    """
    return parse_variants(config.couplings, config_of(config.task))


def check_starts(config: Comparison, variants: Sequence[Variant], samplers: Sequence[Sampler]) -> None:
    """Checks that the contenders can be sampled and scored as they ask for, before any is trained.

    Raises:
        InputError: If a sampler cannot start where one starts, or there is no prior of such data.
    """
    row = system(config.task)
    for variant in variants:
        try:
            check_start(variant.start, row, samplers)
            if not variant.prior:
                check_samplers(variant.coupling, samplers, variant.start.law)
            if variant.start.components:
                check_from_noise(variant.coupling)
        except InputError as error:
            raise InputError(f"{variant.name} in --couplings: {error}") from None
        if variant.prior and not has_prior(row):
            raise InputError(f"{variant.name} in --couplings needs a system that draws plain images, got {row.name}.")


def has_prior(row: System) -> bool:
    """Whether samples of a prior of a system's data are scored as those of its runs are."""
    return row.scored == "images" and not row.prompted


def samplers_of(config: Comparison) -> list[Sampler]:
    """How samples are drawn for the scores, each with its number of network calls."""
    return parse_samplers(config.task, config.nfe, config.sampler, getattr(config, "eta", 0.0))


def evaluated_every(config: Comparison) -> int:
    """The number of training steps from one point of a curve to the next."""
    return -(-config.steps // config.evaluations)


def run_config(config: Comparison, variant: Variant, seed: int) -> RunConfig:
    """The configuration of one run of a comparison.

    Arguments:
        config: The comparison.
        variant: The contender.
        seed: The seed of the run.
    """
    kind = config_of(config.task)
    found = kind(
        **{name: getattr(config, name) for name in common(kind)} | variant.settings,
        out=config.out / "runs" / f"{variant.slug}-seed{seed}",
        coupling=variant.coupling,
        seed=seed,
        checkpoint_every=evaluated_every(config),
        keep_checkpoints=0,
        sample_every=config.steps,
        tensorboard=False,
    )
    check_needs(found, variant.settings, " in --couplings")
    return found


def command(config: Comparison) -> str:
    """The command that reproduces a comparison: everything that is not at its default, but for where it is written."""
    words = ["immiscible", "compare", config.task]
    return command_line(words, config, always=("data", "couplings", "seeds"), never=("out",))


def identity(config: Comparison) -> dict[str, Any]:
    """What tells a comparison from others: all that its report depends on, but for what its runs keep themselves."""
    runs = [variant.name for variant in variants_of(config)]
    asked = {name: getattr(config, name) for name in ("nfe", "sampler", "evaluations", "samples", "features")}
    return {"task": config.task, "couplings": runs, "seeds": config.seed_list, **asked, "steps": config.steps}


def claim_directory(config: Comparison) -> None:
    """Takes the directory for this comparison, whose report no other one may replace.

    Raises:
        InputError: If it holds another comparison.
    """
    summary, mark = config.out / SUMMARY, config.out / COMPARISON
    if not summary.exists():
        write_json(mark, identity(config))
    elif not mark.exists():
        _check_same(config, summary)
    claim(config.out, "comparison", identity(config))


def _check_same(config: Comparison, summary: Path) -> None:
    """Checks that a comparison of a version that kept no identity had the same contenders and seeds."""
    try:
        saved = json.loads(summary.read_text(encoding="utf-8"))
        was = [sorted(saved["couplings"]), [str(seed) for seed in saved["seeds"]]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{summary} must be the summary of a comparison, got: {error}: give another --out.") from None
    names = sorted(variant.name for variant in variants_of(config))
    if was != [names, [str(seed) for seed in config.seed_list]]:
        raise InputError(
            f"{config.out} holds a comparison of {', '.join(was[0])} with seeds {', '.join(was[1])}: give another "
            "--out."
        )
