"""``immiscible sample``."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import torch

from immiscible.cli.arguments import Sample
from immiscible.cli.opening import guidance_of, is_text_model, open_run, samplers_for
from immiscible.cli.output import report
from immiscible.errors import InputError
from immiscible.tasks import runs
from immiscible.training.files import write_bytes
from immiscible.training.pictures import encode_png, to_uint8, write_grid


def sample(arguments: Sample) -> None:
    """Draws images from a run."""
    if is_text_model(arguments.run):
        from immiscible.cli.sample_text import sample_text

        sample_text(arguments)
        return
    if arguments.prompts or arguments.steps or arguments.scheduler != "auto":
        raise InputError(
            f"--prompts, --steps and --scheduler need a run of Stable Diffusion, got {arguments.run}: use --nfe and "
            "--sampler."
        )
    check_free(arguments.out, arguments.overwrite)
    run = open_run(arguments)
    samplers = samplers_for(arguments, run, run.config.nfes.split(",")[-1])
    if len(samplers) > 1:
        raise InputError(f"--nfe must be one number or adaptive here, got {arguments.nfe}.")
    start = run.start(arguments.num, arguments.seed, arguments.noise_scale)
    if arguments.classes:
        labels = _classes(arguments.classes, run, len(start)).to(start.noise.device)
        start = dataclasses.replace(start, labels=labels)
    drawn = run.sample(start, samplers[0], guidance_of(arguments, run))
    write_images(arguments.out, drawn.images.cpu(), start.labels)
    result = {"out": str(arguments.out), "images": len(start), "calls": drawn.nfe, "step": run.step}
    said = f"{arguments.out}: {len(start)} images of step {run.step}, {drawn.nfe} network calls each"
    report(arguments.json, result, said)


def _classes(text: str, run: runs.Run, count: int) -> torch.Tensor:
    words = text.split(",")
    if not all(word.isdecimal() and int(word) < run.classes for word in words):
        allowed = f"numbers below {run.classes}" if run.classes else "left out, since the run is unconditional"
        raise InputError(f"--classes must be {allowed}, got {text}.")
    return torch.tensor([int(words[i % len(words)]) for i in range(count)])


def check_free(out: Path, overwrite: bool) -> None:
    taken = any(out.iterdir()) if out.is_dir() else out.exists()
    if taken and not overwrite:
        raise InputError(f"--out must not exist yet, got {out}: add --overwrite to replace it.")
    if out.is_dir() and out.suffix in (".png", ".npz"):
        raise InputError(f"--out must be a file to end in {out.suffix}, got the directory {out}.")


def write_images(out: Path, images: torch.Tensor, labels: torch.Tensor | None) -> None:
    """Writes a grid, an archive or a directory of images, by the name."""
    if out.suffix == ".png":
        write_grid(out, images)
    elif out.suffix == ".npz":
        write_bytes(out, _archive(images, labels))
    elif out.suffix:
        raise InputError(f"--out must end in .png or .npz or be a directory, got {out}.")
    else:
        for index, image in enumerate(images):
            write_bytes(out / f"{index:06d}.png", encode_png(image))


def _archive(images: torch.Tensor, labels: torch.Tensor | None) -> bytes:
    """The bytes of a .npz file."""
    pixels = to_uint8(images).permute(0, 2, 3, 1).numpy()
    buffer = io.BytesIO()
    if labels is None:
        np.savez_compressed(buffer, images=pixels)
    else:
        np.savez_compressed(buffer, images=pixels, labels=labels.cpu().numpy())
    return buffer.getvalue()
