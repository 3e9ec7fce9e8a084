"""Finds a pipeline in a folder or on the hub, checks that its parts fit together, and loads them.

Weights are read from safetensors only. Everything that can be told from the small configuration files is checked before
any weight is read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from immiscible.config.recipes import StableDiffusionConfig
from immiscible.data.hub import unreachable
from immiscible.errors import InputError, one_line
from immiscible.io.records import Unfit, check_list, check_record, number, read_json
from immiscible.seeds import derive, seed_all
from immiscible.tasks.stable_diffusion.foreign import check_no_file, check_not_only_half
from immiscible.tasks.stable_diffusion.quiet import quiet

# The file that tells each part of a pipeline.
PARTS = {
    "unet": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "scheduler": "scheduler_config.json",
}
# What is read of the configurations of parts here, all whole numbers; and how many levels a network may have.
READ = {
    "unet": ("in_channels", "out_channels", "cross_attention_dim", "sample_size"),
    "vae": ("in_channels", "latent_channels"),
    "text_encoder": ("hidden_size",),
}
MOST_LEVELS = 16
# What the libraries raise for parts that are damaged or are something else.
DAMAGE = (AttributeError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)
TRAINED_FILES = ("*.json", "*.txt", "*.safetensors")


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


def locate(model: str) -> Path:
    """The folder of a pipeline; one on the hub is fetched first, unless it was before.

    Raises:
        InputError: If there is none, or the hub cannot be reached.
    """
    path = Path(os.path.expanduser(model))
    if path.is_dir():
        return path
    check_no_file(path)
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise InputError(
            f"--model must be a folder with a pipeline of diffusers, got {model}: there is no such folder."
        )
    from huggingface_hub import snapshot_download

    patterns = ["model_index.json", *(f"{part}/{kind}" for part in PARTS for kind in TRAINED_FILES)]
    try:
        return Path(snapshot_download(model, allow_patterns=patterns, ignore_patterns=["*.fp16.*", "*non_ema*"]))
    except unreachable() as error:
        raise InputError(
            f"--model must be a folder, or the name of a pipeline on a hub that can be reached from here, got {model}: "
            f"{one_line(error)}: fetch it where there is a network (`hf download {model}`) and give its folder."
        ) from error


def read_configs(path: Path) -> dict[str, dict[str, Any]]:
    """The configuration of each part.

    Raises:
        InputError: If a part is missing or cannot be read.
    """
    missing = [f"{part}/{name}" for part, name in PARTS.items() if not (path / part / name).is_file()]
    if missing:
        raise InputError(
            f"--model must hold a pipeline of diffusers with {', '.join(PARTS)}, got {path} without "
            f"{', '.join(missing)}: save it whole with `save_pretrained`."
        )
    try:
        return {part: _config(part, path / part / name) for part, name in PARTS.items()}
    except (FileNotFoundError, Unfit) as error:
        raise InputError(f"--model must hold configurations as diffusers writes them: {error}.") from None


def _config(part: str, path: Path) -> dict[str, Any]:
    """The configuration of a part, in which what is read here is of the right type."""
    values = check_record(read_json(path), {}, path)
    known = {
        key: number(key, whole=True, least=1, most=2**20) for key in READ.get(part, ()) if values.get(key) is not None
    }
    check_record(values, known, path)
    levels = values.get("block_out_channels", [1]) if part in ("unet", "vae") else [1]
    if not check_list(levels, "block_out_channels", path, _is_count, "channels") or len(levels) > MOST_LEVELS:
        raise Unfit(f"`block_out_channels` in {path} must be from 1 to {MOST_LEVELS} numbers, got {len(levels)}")
    return values


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def check(path: Path) -> dict[str, dict[str, Any]]:
    """Checks that the parts of a pipeline fit together; returns their configurations.

    Raises:
        InputError: If a part is missing, or two do not fit.
    """
    configs = read_configs(path)
    check_not_only_half(path, ("unet", "vae", "text_encoder"))
    unet, vae, text = configs["unet"], configs["vae"], configs["text_encoder"]
    _agree(path, "the U-Net's input", unet.get("in_channels", 4), "the VAE's latents", vae.get("latent_channels", 4))
    _agree(path, "the U-Net's output", unet.get("out_channels", 4), "the VAE's latents", vae.get("latent_channels", 4))
    _agree(path, "the VAE's images", vae.get("in_channels", 3), "RGB", 3)
    width = unet.get("cross_attention_dim", 1280)
    if text.get("hidden_size", 512) != width:
        raise InputError(
            f"--model must have a U-Net that reads its text encoder, got {path}: the U-Net takes texts of {width} "
            f"values, the text encoder gives {text.get('hidden_size', 512)}: take both from one pipeline."
        )
    return configs


def _agree(path: Path, one: str, first: int, other: str, second: int) -> None:
    if first != second:
        hint = "; in-painting models with 9 channels cannot be trained here" if first == 9 else ""
        raise InputError(
            f"--model must have as many channels in {one} as in {other}, got {first} and {second} in {path}: take "
            f"parts that belong together{hint}."
        )


def native_size(path: Path) -> int:
    """The side of the images that a pipeline was made for, in pixels."""
    configs = read_configs(path)
    return int(configs["unet"].get("sample_size") or 64) * shrinkage(configs["vae"])


def shrinkage(vae: dict[str, Any]) -> int:
    """How many times smaller latents are than images, by the VAE's configuration."""
    return 2 ** (len(vae.get("block_out_channels", (64,))) - 1)


def fingerprint(path: Path, parts: Iterable[str] = PARTS) -> str:
    """The SHA-256 of the configurations and weights of some parts."""
    digest = hashlib.sha256()
    files = sorted(file for part in parts for kind in TRAINED_FILES for file in (path / part).glob(kind))
    for file in files:
        digest.update(str(file.relative_to(path)).encode() + b"\0")
        with file.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


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
