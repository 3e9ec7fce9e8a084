"""Writes a trained run of Stable Diffusion: a pipeline of diffusers, or LoRA weights in its standard format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from immiscible.config.recipes import StableDiffusionConfig
from immiscible.io.files import write_folder
from immiscible.runs.model_card import Exported, code, model_card, without_places
from immiscible.runs.open import Run
from immiscible.tasks.stable_diffusion.pipelines import save_pipeline
from immiscible.tasks.stable_diffusion.quiet import quiet

LORA = "pytorch_lora_weights.safetensors"
WHERE = '"DIRECTORY_OR_REPOSITORY"'
MODES = {
    "scratch": "New weights in the U-Net of",
    "finetune": "Fine-tuning the U-Net of",
    "lora": "Low-rank weights (LoRA) for the U-Net of",
}


def export_text_to_image(run: Run, out: Path, scores: Sequence[dict[str, Any]] = (), replace: bool = False) -> str:
    """Writes a run with the moving average of its weights, and a model card, to a place that is locked.

    Arguments:
        run: The run.
        out: The place.
        scores: The rows of the run's ``evaluation.json``; those of its step go into the card.
        replace: Whether it may take the place of what stands there, once it is whole.

    Returns:
        What was written: the name of the pipeline's class, or ``LoRA``.

    Raises:
        WriteError: If the disk is full, or does not let it be written.
    """
    task: Any = run.task
    pipeline = task.pipeline()
    lora = task.config.mode == "lora"
    card = model_card(run, _exported(run), scores)
    if lora:
        write_folder(out, lambda folder: _save_lora(pipeline, folder), card, replace=replace)
    else:
        save_pipeline(pipeline, out, card, replace=replace)
    return "LoRA" if lora else type(pipeline).__name__


def _save_lora(pipeline: Any, folder: Path) -> None:
    with quiet():
        from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
        from peft.utils.save_and_load import get_peft_model_state_dict

        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipeline.unet))
        settings = pipeline.unet.peft_config["default"].to_dict()
        # These are sets, whose order is not the same in two processes, and the file is to be.
        for name in ("target_modules", "exclude_modules", "modules_to_save"):
            if isinstance(settings.get(name), set | list):
                settings[name] = sorted(settings[name])
        pipeline.save_lora_weights(
            folder,
            unet_lora_layers=layers,
            unet_lora_adapter_metadata=settings,
            weight_name=LORA,
            safe_serialization=True,
        )
    _sort_header(folder / LORA)


def _sort_header(path: Path) -> None:
    """Writes the header of a safetensors file in the order of its keys; the library's own order of the metadata varies.

    The file begins with the length of a JSON header, 8 bytes little-endian; tensors are placed relative to its end.
    """
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])


def _exported(run: Run) -> Exported:
    """What the card says of a pipeline or of LoRA weights."""
    config: Any = without_places(run.config)
    subject = f"{MODES[config.mode]} {code(config.model)} on images of {run.shape[1]} x {run.shape[2]}"
    tags = ["text-to-image", "stable-diffusion", "immiscible-diffusion", *(["lora"] if config.mode == "lora" else [])]
    details = [
        f"Batch {config.batch_size}, learning rate {config.learning_rate:g}, caption dropout "
        f"{config.caption_dropout:g}",
        "There is no safety checker in it: what it draws is not looked at.",
    ]
    return Exported(subject, tags, _usage(config), details)


def _usage(config: StableDiffusionConfig) -> list[str]:
    lora = config.mode == "lora"
    # The name of a folder or repository cannot end the string: it is written as Python would.
    model = repr(" ".join(config.model.split()).replace("`", "'"))
    return [
        "from diffusers import StableDiffusionPipeline",
        "",
        f"pipeline = StableDiffusionPipeline.from_pretrained({model if lora else WHERE})",
        *([f"pipeline.load_lora_weights({WHERE})"] if lora else []),
        f'image = pipeline("a caption", num_inference_steps=20, guidance_scale={config.guidance:g}).images[0]',
    ]
