"""The parts of a pipeline, loaded from safetensors only, and the U-Net made ready to be trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from immiscible.config.recipes import StableDiffusionConfig
from immiscible.errors import InputError, one_line
from immiscible.seeds import derive, seed_all
from immiscible.tasks.base import Shape
from immiscible.tasks.stable_diffusion.folder import check, locate, shrinkage
from immiscible.tasks.stable_diffusion.quiet import quiet

# What the libraries raise for parts that are damaged or are something else.
DAMAGE = (AttributeError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)


@dataclass(frozen=True)
class Components:
    """The parts of a text-to-image pipeline, in float32 on the CPU.

    Attributes:
        unet: ``UNet2DConditionModel``.
        vae: ``AutoencoderKL``.
        text_encoder: ``CLIPTextModel``.
        tokenizer: ``CLIPTokenizer``.
        scheduler: The configuration of the pipeline's scheduler.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: dict[str, Any]

    def latent_shape(self, shape: Shape) -> Shape:
        """The shape (C, h, w) of the latents of an image of a shape (C, H, W)."""
        small = shrinkage(self.vae.config)
        return self.vae.config.latent_channels, shape[1] // small, shape[2] // small


def load_components(path: Path) -> Components:
    """Loads the parts of a pipeline.

    Raises:
        InputError: If a part is missing or damaged, or two do not fit.
    """
    with quiet():
        return _load_components(path)


def _load_components(path: Path) -> Components:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    configs = check(path)
    text_encoder = _load(CLIPTextModel, path, "text_encoder")
    tokenizer = _load(CLIPTokenizer, path, "tokenizer")
    _check_tokenizer(path, tokenizer, text_encoder)
    unet, vae = _load(UNet2DConditionModel, path, "unet"), _load(AutoencoderKL, path, "vae")
    for part in (unet, vae, text_encoder):
        part.requires_grad_(False).eval()
    return Components(unet, vae, text_encoder, tokenizer, configs["scheduler"])


def _load(kind: Any, path: Path, part: str) -> Any:
    safe: dict[str, Any] = {} if part == "tokenizer" else {"use_safetensors": True, "torch_dtype": torch.float32}
    if part == "text_encoder":
        safe = {"use_safetensors": True, "dtype": torch.float32}
    try:
        return kind.from_pretrained(path, subfolder=part, local_files_only=True, **safe)
    except DAMAGE as error:
        raise InputError(
            f"--model must have a {part} that {kind.__name__} can load, got {path}: {one_line(error)}."
        ) from error


def _check_tokenizer(path: Path, tokenizer: Any, text_encoder: Any) -> None:
    words, known = len(tokenizer), text_encoder.config.vocab_size
    length, positions = tokenizer.model_max_length, text_encoder.config.max_position_embeddings
    if words > known:
        raise InputError(
            f"--model must have a tokenizer made for its text encoder, got {path}: the tokenizer has {words} tokens, "
            f"the text encoder knows {known}: take both from one pipeline."
        )
    if length > positions:
        raise InputError(
            f"--model must have a tokenizer made for its text encoder, got {path}: the tokenizer gives up to {length} "
            f"tokens, the text encoder takes {positions}: set `model_max_length` in tokenizer_config.json."
        )


def load_for(config: StableDiffusionConfig, shape: Shape) -> tuple[Components, nn.Module]:
    """Loads the pipeline of a run, and makes its U-Net ready to be trained.

    Raises:
        InputError: If there is none, parts do not fit, or it cannot draw images of a shape (C, H, W).
    """
    parts = load_components(locate(config.model))
    _check_size(shape, parts)
    return parts, trained_unet(config, parts.unet, config.seed)


def trained_unet(config: StableDiffusionConfig, unet: Any, seed: int) -> nn.Module:
    """The U-Net as it is trained: with its own weights, with new ones, or frozen with low-rank weights added.

    New weights depend on the seed and the architecture only.

    Raises:
        InputError: If no layer is of those that low-rank weights are to be added to.
    """
    with torch.random.fork_rng():
        seed_all(derive(seed, "weights"))
        if config.mode == "scratch":
            unet = type(unet).from_config(unet.config)
        elif config.mode == "lora":
            _add_lora(config, unet)
    unet.train()
    if config.mode != "lora":
        unet.requires_grad_(True)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return unet


def _add_lora(config: StableDiffusionConfig, unet: Any) -> None:
    with quiet():
        from peft import LoraConfig

    targets = [word.strip() for word in config.lora_targets.split(",")]
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha or config.lora_rank,  # pyright: ignore[reportArgumentType] (it takes any number)
        init_lora_weights="gaussian",
        target_modules=targets,
    )
    try:
        unet.add_adapter(settings)
    except ValueError as error:
        raise InputError(
            f"--lora-targets must name layers of the U-Net, such as to_q,to_k,to_v,to_out.0, got {config.lora_targets}."
        ) from error


def _check_size(shape: Shape, parts: Components) -> None:
    # Each level of the U-Net but the last halves the latents, and the pipelines ask for multiples of 8 besides.
    unit = max(8, shrinkage(parts.vae.config) * 2 ** (len(parts.unet.config.block_out_channels) - 1))
    _, height, width = shape
    if height % unit or width % unit:
        raise InputError(f"--image-size must be a multiple of {unit} for this model, got images of {height} x {width}.")
