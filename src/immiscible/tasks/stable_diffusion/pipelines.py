"""Pipelines of diffusers: opened, called with noise of our own, and written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from immiscible.io.files import write_folder
from immiscible.samplers import PipelineSampler, Samples, Start
from immiscible.samplers.base import check_finite
from immiscible.tasks.stable_diffusion.components import load_components
from immiscible.tasks.stable_diffusion.quiet import quiet
from immiscible.tasks.stable_diffusion.texts import encode_tokens, tokenize

# What a pipeline is made with besides its parts: there is no safety checker.
WITHOUT_CHECKER: dict[str, Any] = {
    "safety_checker": None,
    "feature_extractor": None,
    "requires_safety_checker": False,
}
INDEX = "model_index.json"


def is_pipeline(path: Path) -> bool:
    """Whether a directory holds a pipeline of diffusers."""
    return (path / INDEX).is_file()


def open_pipeline(path: Path) -> Any:
    """Opens a pipeline of diffusers in a directory, with its own scheduler.

    Raises:
        InputError: If a part is missing or damaged, or two do not fit.
    """
    parts = load_components(path)
    return make_pipeline(parts.unet, parts.vae, parts.text_encoder, parts.tokenizer, named_scheduler(parts.scheduler))


def make_pipeline(unet: Any, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any) -> Any:
    """``StableDiffusionPipeline`` of some parts."""
    with quiet():
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    parts = {"unet": unet, "vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "scheduler": scheduler}
    pipeline = StableDiffusionPipeline(**parts, **WITHOUT_CHECKER)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def named_scheduler(config: dict[str, Any], levels: dict[str, Any] | None = None) -> Any:
    """A scheduler of the class that a configuration names, with the noise levels of another one where given."""
    import diffusers

    kind = getattr(diffusers, config.get("_class_name", "DDIMScheduler"))
    return kind.from_config(levels or config)


def image_size(pipeline: Any) -> int:
    """The side of the images that a pipeline was made for, in pixels."""
    return int(pipeline.unet.config.sample_size) * pipeline.vae_scale_factor


def embeddings(pipeline: Any, ids: Tensor, guidance: float) -> dict[str, Tensor | None]:
    """What a pipeline is called with in place of prompts with some token ids, with shape (B, L)."""
    empty = tokenize(pipeline.tokenizer, [""]).to(ids.device).expand_as(ids)
    return {
        "prompt_embeds": encode_tokens(pipeline.text_encoder, ids),
        "negative_prompt_embeds": encode_tokens(pipeline.text_encoder, empty) if guidance > 1 else None,
    }


@torch.no_grad()
def draw(pipeline: Any, start: Start, sampler: PipelineSampler, guidance: float, size: tuple[int, int]) -> Samples:
    """Calls a pipeline.

    Arguments:
        pipeline: The pipeline, with the sampler's scheduler.
        start: Noise with shape (B, C, h, w), and token ids with shape (B, L) in place of labels.
        sampler: The number of steps.
        guidance: The weight of guidance; 1 is none.
        size: Height and width of the images.

    Returns:
        RGB images in [-1, 1] with shape (B, 3, H, W), and the number of network calls.

    Raises:
        NotFinite: If some are not finite.
    """
    ids = start.labels
    assert ids is not None
    drawn = pipeline(
        **embeddings(pipeline, ids, guidance),
        latents=start.noise,
        generator=start.generators(),
        height=size[0],
        width=size[1],
        num_inference_steps=sampler.steps,
        guidance_scale=guidance,
        output_type="pt",
    )
    return Samples(check_finite(drawn.images.float() * 2 - 1), len(pipeline.scheduler.timesteps))


def save_pipeline(pipeline: Any, out: Path, card: str, *, replace: bool = False) -> None:
    """Writes a pipeline to a new directory, or in the place of what stands there, once it is whole."""
    with quiet():
        write_folder(
            out, lambda folder: pipeline.save_pretrained(folder, safe_serialization=True), card, replace=replace
        )
