"""Latents with the token ids of their captions as a run draws them: from the images, or from the cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from immiscible.config.recipes import StableDiffusionConfig
from immiscible.data import Images
from immiscible.data.shards import Head
from immiscible.errors import InputError
from immiscible.tasks.stable_diffusion.cache import cached_moments
from immiscible.tasks.stable_diffusion.components import Components
from immiscible.tasks.stable_diffusion.folder import fingerprint, locate
from immiscible.tasks.stable_diffusion.latents import EncodedMoments, Encoder, LatentSource, Moments
from immiscible.tasks.stable_diffusion.texts import PooledCaptions, captions_of, tell_cut, tokenize
from immiscible.training.sources import PointSource
from immiscible.training.streams import sourced


def latent_source(config: StableDiffusionConfig, parts: Components, data: Images, device: torch.device) -> PointSource:
    """The data of a run on a device, to which the frozen parts are moved.

    Arguments:
        config: The configuration of the run.
        parts: The parts of the pipeline.
        data: The images, RGB.
        device: Where to encode and to draw.

    Raises:
        InputError: If latents of a stream are to be cached, captions are missing, or classes that are asked for.
    """
    if isinstance(data, Head) and config.cache_latents:
        raise InputError(f"--cache-latents must be left out for a stream, which has no end, got {config.data}.")
    tell_cut(parts.tokenizer, data, captions_of(data, config.caption_template))
    parts.vae.to(device)
    parts.text_encoder.to(device, _half(config, device))
    pooled = PooledCaptions(parts.text_encoder, parts.tokenizer.eos_token_id)
    return sourced(data, config, lambda images: _latents(config, parts, images, device, pooled))


def _latents(
    config: StableDiffusionConfig, parts: Components, data: Images, device: torch.device, pooled: PooledCaptions
) -> LatentSource:
    encoder, captions = Encoder(parts.vae, device), captions_of(data, config.caption_template)
    groups = data.labels if config.within_classes else None
    if config.within_classes and groups is None:
        raise InputError(f"--within-classes needs labelled data, got {data.name} without labels.")
    moments: Moments = EncodedMoments(data, config, encoder)
    if config.cache_latents:
        moments = cached = _cached(config, parts.tokenizer, data, captions, encoder)
        ids = cached.ids()
    else:
        ids = tokenize(parts.tokenizer, captions)
    return LatentSource(moments, ids, groups, pooled, float(parts.vae.config.scaling_factor), config, device)


def _cached(
    config: StableDiffusionConfig, tokenizer: Any, data: Images, captions: tuple[str, ...], encoder: Encoder
) -> Any:
    model = fingerprint(locate(config.model), ("vae", "tokenizer"))
    key = f"{data.fingerprint()} {model} {config.caption_template}"

    def tokens(rows: Tensor) -> Tensor:
        return tokenize(tokenizer, [captions[row] for row in rows.tolist()])

    return cached_moments(data, tokens, encoder, config, key)


def _half(config: StableDiffusionConfig, device: torch.device) -> torch.dtype:
    """The type of the frozen text encoder."""
    halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return halves.get(config.mixed_precision, torch.float32) if device.type == "cuda" else torch.float32
