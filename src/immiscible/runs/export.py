"""Writes a trained run as a pipeline of diffusers, which needs nothing of this package to be loaded and sampled from.

What the stock pipelines cannot express is refused, since a pipeline that loads and gives wrong images is worse than
none: the MLP, flows (diffusers has no unconditional pipeline for them), scaled data, and class-conditional diffusion.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from immiscible.config.systems import SYSTEMS, imported, system
from immiscible.couplings.source import Normal
from immiscible.data.hub import unreachable
from immiscible.errors import InputError, one_line
from immiscible.io.console import say
from immiscible.io.files import write_folder
from immiscible.io.locks import locked
from immiscible.io.outputs import check_output
from immiscible.runs.model_card import Exported, model_card
from immiscible.runs.open import Run


def export(
    run: Run, out: Path, *, sampler: str = "auto", scores: Sequence[dict[str, Any]] = (), replace: bool = False
) -> str:
    """Writes a pipeline with the moving average of a run's weights, and a model card.

    Arguments:
        run: The run.
        out: A new or empty directory.
        sampler: One of the methods that its system has a pipeline for; ``auto`` for the first.
        scores: The rows of the run's ``evaluation.json``; those of its step go into the card.
        replace: Whether it may take the place of a pipeline that stands there, once it is whole.

    Returns:
        The name of the pipeline's class.

    Raises:
        InputError: If diffusers has no pipeline for the run, something is in the way, or another process exports there.
        WriteError: If the disk is full, or does not let it be written.
    """
    check_export(run.path, out, replace)
    with locked(out, directory=False, check=lambda: check_export(run.path, out, replace)):
        row = system(run.config.task)
        if row.export:
            if sampler != "auto":
                raise InputError(f"--sampler must be left out for {row.title}, got {sampler}: its own is written.")
            return imported(row.export)(run, out, scores, replace)
        return _export(run, out, sampler, scores, replace)


def _export(run: Run, out: Path, sampler: str, scores: Sequence[dict[str, Any]], replace: bool) -> str:
    """Writes a pipeline of images to a place that is locked, see :func:`export`."""
    methods = system(run.config.task).pipelines
    if not methods:
        known = [row.name for row in SYSTEMS.values() if row.pipelines]
        raise InputError(
            f"export needs a run of {' or '.join(known)}, got {run.config.task}: diffusers has no unconditional "
            f"pipeline for {system(run.config.task).runs}; use `immiscible sample`, or "
            "--weights-only for a small run directory."
        )
    method = methods[0] if sampler == "auto" else sampler
    if method not in methods:
        raise InputError(f"--sampler must be one of {', '.join(methods)} for {run.config.task}, got {sampler}.")
    task: Any = run.task
    pipeline = task.pipeline(method)
    name = type(pipeline).__name__
    if not isinstance(task.law, Normal) and "latents" not in inspect.signature(type(pipeline).__call__).parameters:
        raise InputError(
            f"export needs samples that start from N(0, I) for {name}, which draws its starts itself, got {task.law}: "
            "use `immiscible sample`, or --weights-only for a small run directory."
        )
    card = model_card(run, _exported(run, name), scores)
    write_folder(out, lambda folder: pipeline.save_pretrained(folder, safe_serialization=True), card, replace=replace)
    return name


def _exported(run: Run, pipeline: str) -> Exported:
    """What the card says of a pipeline of that class."""
    task: Any = run.task
    usage = [
        f"from diffusers import {pipeline}",
        "",
        f'pipeline = {pipeline}.from_pretrained("DIRECTORY_OR_REPOSITORY")',
        f"images = pipeline(batch_size=16, {task.pipeline_call(pipeline)})",
    ]
    if not isinstance(task.law, Normal):
        # More steps than one add fresh noise, which is normal.
        shape = ", ".join(map(str, (16, *run.shape)))
        drawn = [f"labels = torch.arange(16) % {run.classes}"] if run.classes else []
        of_class, given = (", labels=labels", ", class_labels=labels") if run.classes else ("", "")
        usage[:1] = ["import immiscible", "import torch", usage[0]] if run.classes else ["import immiscible", usage[0]]
        usage[-1:] = [
            *drawn,
            f"start = immiscible.source(RUN).sample(({shape}){of_class})",
            f"images = pipeline(batch_size=16, latents=start{given}, num_inference_steps=1)",
        ]
    tags = ["unconditional-image-generation", "diffusers", "immiscible-diffusion", f"diffusers:{pipeline}"]
    return Exported(f"Images of {' x '.join(map(str, run.shape))}", tags, usage)


def check_export(run: Path, out: Path, replace: bool = False) -> None:
    """Checks that a pipeline may be written to a place.

    Arguments:
        run: The directory of the run, which the place may not be.
        out: The place, a new or empty directory.
        replace: Whether another pipeline may be there.

    Raises:
        InputError: If something is in the way.
    """
    check_output(out, "new", flag="DIR", inputs=[run], overwrite=replace)


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Uploads an exported pipeline to the Hugging Face hub.

    Arguments:
        folder: The pipeline.
        repository: The name of the repository, such as ``you/model``; it is made if there is none.
        private: Whether a new repository is private.

    Returns:
        Its address.

    Raises:
        InputError: If the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        say(f"uploading {folder} to {repository}")
        api.create_repo(repository, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload by immiscible"))
    except unreachable() as error:
        raise InputError(
            f"--push-to-hub needs a reachable hub, a login (`hf auth login`) and a name such as you/model, got: "
            f"{one_line(error)}: the pipeline is in {folder}."
        ) from error
