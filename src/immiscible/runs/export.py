"""Writes a trained run as a pipeline of diffusers, which needs nothing of this package to be loaded and sampled from.

What the stock pipelines cannot express is refused, since a pipeline that loads and gives wrong images is worse than
none: the MLP, flows (diffusers has no unconditional pipeline for them), scaled data, and class-conditional diffusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from immiscible.config.recipes import StableDiffusionConfig
from immiscible.data.hub import unreachable
from immiscible.errors import InputError, one_line
from immiscible.io.console import say
from immiscible.io.files import write_folder
from immiscible.io.locks import locked
from immiscible.io.outputs import check_output
from immiscible.networks import UNet
from immiscible.runs.model_card import model_card
from immiscible.runs.runs import Run
from immiscible.tasks.consistency import ConsistencyTask, make_scheduler
from immiscible.tasks.ddim import DiffusionTask

METHODS = {"ddim": ("ddim", "ddpm"), "consistency": ("multistep",)}


def export(
    run: Run, out: Path, *, sampler: str = "auto", scores: Sequence[dict[str, Any]] = (), replace: bool = False
) -> str:
    """Writes a pipeline with the moving average of a run's weights, and a model card.

    Arguments:
        run: The run.
        out: A new or empty directory.
        sampler: ``ddim`` or ``ddpm`` for diffusion, ``multistep`` for consistency models; ``auto`` for the first.
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
        if isinstance(run.config, StableDiffusionConfig):
            if sampler != "auto":
                raise InputError(f"--sampler must be left out for Stable Diffusion, got {sampler}: its own is written.")
            from immiscible.runs.export_text_to_image import export_text_to_image

            return export_text_to_image(run, out, scores, replace)
        return _export(run, out, sampler, scores, replace)


def _export(run: Run, out: Path, sampler: str, scores: Sequence[dict[str, Any]], replace: bool) -> str:
    """Writes a pipeline of diffusion or consistency to a place that is locked, see :func:`export`."""
    _check_expressible(run)
    methods = METHODS[run.config.task]
    method = methods[0] if sampler == "auto" else sampler
    if method not in methods:
        raise InputError(f"--sampler must be one of {', '.join(methods)} for {run.config.task}, got {sampler}.")
    pipeline = _pipeline(run, method)
    name = type(pipeline).__name__
    there = [row for row in scores if row["step"] == run.step]
    card = model_card(run, name, there)
    write_folder(out, lambda folder: pipeline.save_pretrained(folder, safe_serialization=True), card, replace=replace)
    return name


def check_export(run: Path, out: Path, replace: bool = False) -> None:
    """Checks that a pipeline may be written to a place; it is one that is new, unless it replaces another."""
    check_output(out, "new", flag="DIR", inputs=[run], overwrite=replace)


def _check_expressible(run: Run) -> None:
    config = run.config
    if config.task not in METHODS or isinstance(config, StableDiffusionConfig):
        raise InputError(
            f"export needs a run of {' or '.join(METHODS)}, got {config.task}: diffusers has no unconditional pipeline "
            "for flows; use `immiscible sample`."
        )
    if not isinstance(run.network, UNet):
        raise InputError(f"export needs a U-Net, got a run with the {config.network}: train with --network unet.")
    if config.data_scale != 1:
        raise InputError(
            f"export needs --data-scale 1, got {config.data_scale}: the pipelines of diffusers do not divide samples; "
            "train with --schedule-shift instead."
        )
    if run.classes and config.task == "ddim":
        raise InputError(
            f"export needs an unconditional run for diffusion, got one with {run.classes} classes: the pipelines of "
            "diffusers give its U-Net no classes."
        )
    if run.shape[1] != run.shape[2] and config.task == "consistency":
        raise InputError(f"export needs square images for consistency models, got {run.shape[1]} x {run.shape[2]}.")


def _pipeline(run: Run, method: str) -> Any:
    """The pipeline in memory."""
    from diffusers.pipelines.consistency_models.pipeline_consistency_models import ConsistencyModelPipeline
    from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
    from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    assert isinstance(run.network, UNet)
    unet, task = run.network.inner, run.task
    if isinstance(task, ConsistencyTask):
        return ConsistencyModelPipeline(unet, make_scheduler(task.config))
    assert isinstance(task, DiffusionTask)
    if method == "ddpm":
        return DDPMPipeline(unet, task.schedule)
    scheduler: Any = DDIMScheduler.from_config(task.schedule.config)
    return DDIMPipeline(unet, scheduler)


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Uploads an exported pipeline to the Hugging Face hub.

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
