"""Writes the averaged weights of a run as a run directory of its own, small enough to be shared.

It can be sampled from, scored and inspected as the run can, also where diffusers has no pipeline for it. Weights are
kept in float16, which halves them. Nothing in it says where the data were.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from immiscible.config.groups import as_json
from immiscible.config.metric import IMAGE_METRICS, Metric
from immiscible.config.systems import system
from immiscible.errors import InputError
from immiscible.io.files import write_folder, write_json
from immiscible.io.locks import locked
from immiscible.runs.directory import CONFIG, IMAGE_AXES, read_config, read_prompts, write_prompts
from immiscible.runs.export import check_export
from immiscible.runs.model_card import Exported, model_card, without_places
from immiscible.runs.open import Run
from immiscible.runs.source import SOURCE, read_source, write_source
from immiscible.training.checkpoint import write_average
from immiscible.training.ema import trained_weights


def export_weights(
    run: Run, out: Path, *, scores: Sequence[dict[str, Any]] = (), metrics: Sequence[Metric] = IMAGE_METRICS
) -> None:
    """Writes a run directory that holds the averaged weights alone, with a model card.

    Arguments:
        run: The run.
        out: A new or empty directory.
        scores: The rows of the run's ``evaluation.json``; those of its step go into the card.
        metrics: What these consist of.

    Raises:
        InputError: If it is a run of Stable Diffusion, something is in the way, or another process exports there.
        WriteError: If the disk is full, or does not let it be written.
    """
    row = system(run.config.task)
    if row.prompted:
        raise InputError(
            f"--weights-only needs a run with all of its weights, got one of {row.name}: leave the flag out, since its "
            "pipeline holds them all."
        )
    check_export(run.path, out)
    with locked(out, directory=False, check=lambda: check_export(run.path, out)):
        write_folder(out, lambda folder: _write(run, folder), model_card(run, _exported(run), scores, metrics))


def _write(run: Run, folder: Path) -> None:
    saved = {**read_config(run.path), "places": {}}
    named = as_json(without_places(run.config))
    write_json(folder / CONFIG, {**saved, **{key: named[key] for key in saved.keys() & named.keys()}})
    write_average(folder / "checkpoints", run.step, trained_weights(run.network))
    write_prompts(folder, read_prompts(run.path))
    if (run.path / SOURCE).exists():
        write_source(folder, read_source(run.path))
    run.task.keep(folder)


def _exported(run: Run) -> Exported:
    """What the card says of the directory."""
    drawn = system(run.config.task).axes == IMAGE_AXES
    usage = f"immiscible {'sample DIRECTORY --out samples.png' if drawn else 'evaluate DIRECTORY --episodes 50'}"
    shape = " x ".join(map(str, run.shape))
    tags = ["unconditional-image-generation" if drawn else "robotics", "immiscible-diffusion"]
    details = ["The weights are kept in float16, without what training needs to go on."]
    return Exported(f"{'Images' if drawn else 'Plans'} of {shape}", tags, [usage], details, "sh", "immiscible")
