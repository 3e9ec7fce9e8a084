"""Writes a trained run of Stable Diffusion: a pipeline of diffusers, or LoRA weights in its standard format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from immiscible import __version__
from immiscible.config.recipes import StableDiffusionConfig
from immiscible.couplings import describe
from immiscible.io.files import write_folder
from immiscible.runs.model_card import code, command, plain, score_table
from immiscible.runs.runs import Run
from immiscible.tasks.stable_diffusion.pipelines import save_pipeline
from immiscible.tasks.stable_diffusion.quiet import quiet

LORA = "pytorch_lora_weights.safetensors"


def export_text_to_image(run: Run, out: Path, scores: Sequence[dict[str, Any]] = (), replace: bool = False) -> str:
    """Writes a run with the moving average of its weights, and a model card, to a place that is locked.

    Returns:
        What was written: the name of the pipeline's class, or ``LoRA``.

    Raises:
        WriteError: If the disk is full, or does not let it be written.
    """
    task: Any = run.task
    pipeline = task.pipeline()
    lora = task.config.mode == "lora"
    name = "LoRA" if lora else type(pipeline).__name__
    if lora:
        write_folder(out, lambda folder: _save_lora(pipeline, folder), _card(run, name, scores), replace=replace)
    else:
        save_pipeline(pipeline, out, _card(run, name, scores), replace=replace)
    return name


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


def _card(run: Run, name: str, scores: Sequence[dict[str, Any]]) -> str:
    config: Any = run.config
    described = describe(config.coupling)
    modes = {
        "scratch": "new weights in the U-Net of",
        "finetune": "fine-tuning the U-Net of",
        "lora": "low-rank weights (LoRA) for the U-Net of",
    }
    there = [row for row in scores if row["step"] == run.step]
    parts = [
        _header(name),
        f"# Stable Diffusion on {plain(config.data)}",
        f"{modes[config.mode].capitalize()} {code(config.model)}, trained for {run.step:,} steps with immiscible "
        f"{__version__} on images of {run.shape[1]} x {run.shape[2]}.",
        "## Use",
        _usage(name, config),
        "## Training",
        f"- Data: {code(config.data)}\n"
        f"- Coupling of data and noise: {code(config.coupling)}, ranked in the cost space {code(config.cost_space)}. "
        f"Moves {described.moves} Law of the noise: {described.marginal}\n"
        f"- Batch {config.batch_size}, learning rate {config.learning_rate:g}, caption dropout "
        f"{config.caption_dropout:g}\n"
        f"- Weights: the moving average at step {run.step:,}\n"
        "- There is no safety checker in it: what it draws is not looked at.",
        "The command:",
        f"```sh\n{command(run)}\n```",
        "## Scores",
        score_table(there),
    ]
    return "\n\n".join(parts) + "\n"


def _header(name: str) -> str:
    tags = ["text-to-image", "stable-diffusion", "immiscible-diffusion", *(["lora"] if name == "LoRA" else [])]
    lines = ["---", "library_name: diffusers", "pipeline_tag: text-to-image", "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join([*lines, "---"])


def _usage(name: str, config: StableDiffusionConfig) -> str:
    # The name of a folder or repository cannot end the string: it is written as Python would.
    model = repr(" ".join(config.model.split()).replace("`", "'"))
    source = model if name == "LoRA" else '"DIRECTORY_OR_REPOSITORY"'
    lines = [
        "from diffusers import StableDiffusionPipeline",
        "",
        f"pipeline = StableDiffusionPipeline.from_pretrained({source})",
    ]
    if name == "LoRA":
        lines.append('pipeline.load_lora_weights("DIRECTORY_OR_REPOSITORY")')
    lines.append(f'image = pipeline("a caption", num_inference_steps=20, guidance_scale={config.guidance:g}).images[0]')
    return "```python\n" + "\n".join(lines) + "\n```"
