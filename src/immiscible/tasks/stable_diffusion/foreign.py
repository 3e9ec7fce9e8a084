"""Weights of Stable Diffusion in another form than a pipeline's folder: what they are, and how to convert them."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from immiscible.errors import InputError

WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
# How the names of tensors begin in files of a whole model, as its authors' own code writes them.
WHOLE = ("model.diffusion_model.", "first_stage_model.")
HALF = ".fp16."


def check_no_file(path: Path) -> None:
    """Says what a single file is, where a folder is wanted.

    Raises:
        InputError: If it is a file.
    """
    if not path.is_file():
        return
    kind, convert = _kind(path)
    raise InputError(f"--model must be a folder with a pipeline of diffusers, got the file {path}, {kind}: {convert}.")


def check_not_only_half(path: Path, parts: tuple[str, ...]) -> None:
    """Checks that a pipeline's weights are not there in half precision only.

    Raises:
        InputError: If they are.
    """
    for part in parts:
        names = sorted(file.name for file in (path / part).glob("*.safetensors"))
        if names and all(HALF in name for name in names):
            raise InputError(
                f"--model must have a {part} in full precision, got {path} with {names[0]} only: convert it with "
                f"`StableDiffusionPipeline.from_pretrained({str(path)!r}, variant='fp16').save_pretrained(FOLDER)` of "
                "diffusers, and give FOLDER."
            )


def _kind(path: Path) -> tuple[str, str]:
    """What a file is, and what to do with it."""
    convert = f"write the folder with `StableDiffusionPipeline.from_single_file({str(path)!r}).save_pretrained(FOLDER)`"
    if path.suffix.lower() not in WEIGHTS:
        return "which is none", "give the folder"
    if path.suffix.lower() != ".safetensors":
        return "whose weights may run code when they are read", f"if you trust it, {convert}"
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except (OSError, SafetensorError):
        return "which is damaged", "download it again"
    if any("lora" in name.lower() for name in names):
        return "low-rank weights for some model", "give the folder of that model"
    if any(name.startswith(WHOLE) for name in names):
        return "the weights of a whole model", convert
    return "one part of a model", "give the folder that holds all parts"
