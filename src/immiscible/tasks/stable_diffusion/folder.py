"""Finds a pipeline in a folder or on the hub, and checks by its configurations that its parts fit together.

No weight is read here: all that small files can say is checked before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from immiscible.data.hub import unreachable
from immiscible.errors import InputError, one_line
from immiscible.io.records import Unfit, check_list, check_record, number, read_json
from immiscible.tasks.stable_diffusion.foreign import check_no_file, check_not_only_half

# The file that each part of a pipeline is known by.
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
TRAINED_FILES = ("*.json", "*.txt", "*.safetensors")


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
