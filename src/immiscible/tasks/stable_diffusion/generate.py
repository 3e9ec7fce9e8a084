"""Draws many images for prompts into a directory: killed and resumed, or split over processes, it gives the same set.

Image ``i`` has prompt ``i`` (in turn) and noise that depends on the seed and on ``i`` only. Images are drawn in blocks
with fixed bounds, each by one process; a block whose files are all there is skipped. ``png`` gives a file for each
image, a thousand to a folder, with ``metadata.jsonl`` beside them; ``npz`` gives shards with ``images`` (bytes,
N x H x W x 3) and ``prompts``.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from immiscible.io import outputs
from immiscible.io.console import tracked
from immiscible.io.files import write_bytes, write_text
from immiscible.io.png import encode_png, to_uint8
from immiscible.samplers import Start
from immiscible.tasks.base import draw_start
from immiscible.tasks.stable_diffusion.pipelines import draw
from immiscible.tasks.stable_diffusion.request import GROUP, Request
from immiscible.tasks.stable_diffusion.texts import tokenize

METADATA = "metadata.jsonl"


def start_of(pipeline: Any, request: Request, indices: range) -> Start:
    """Noise and token ids of some images."""
    size, prompts = request.size, [request.prompt(index) for index in indices]
    factor = pipeline.vae_scale_factor
    shape = (pipeline.unet.config.in_channels, size[0] // factor, size[1] // factor)
    start = draw_start(shape, indices, 0, request.seed, pipeline.device, request.noise_scale)
    return dataclasses.replace(start, labels=tokenize(pipeline.tokenizer, prompts).to(pipeline.device))


def generate(pipeline: Any, request: Request, out: Path, rank: int = 0, ranks: int = 1) -> int:
    """Draws what is not there yet of this process's share, into a directory that was claimed.

    Arguments:
        pipeline: The pipeline, with the sampler's scheduler.
        request: What to draw.
        out: The directory.
        rank: The number of this process.
        ranks: How many processes there are.

    Returns:
        How many images this process drew.
    """
    missing = [block for block in request.blocks()[rank::ranks] if not _is_there(out, block, request)]
    for block in tracked(missing, f"drawing {sum(map(len, missing))} images", len(missing)):
        prompts = [request.prompt(index) for index in block]
        images = torch.cat([_images(pipeline, request, part) for part in _batches(block, request.batch_size)])
        _write(out, block, images, prompts, request)
    return sum(map(len, missing))


def finish(out: Path, request: Request) -> None:
    """Writes the prompts beside the images, for one process to do when all are done."""
    if request.kind == "png":
        lines = [
            json.dumps({"file_name": str(_png(index)), "text": request.prompt(index)}, ensure_ascii=False)
            for index in range(request.num)
        ]
        write_text(out / METADATA, "".join(f"{line}\n" for line in lines))


def claim(out: Path, request: Request, origin: dict[str, Any]) -> None:
    """Takes a directory for a request, or goes on in one that was; of several processes the first does so first.

    Raises:
        InputError: If the directory holds something else than images of the same request.
    """
    outputs.claim(out, "images", request.identity(origin), "give another --out, or add --overwrite")


def _batches(block: range, size: int) -> Iterator[range]:
    for first in range(0, len(block), size):
        yield block[first : first + size]


def _images(pipeline: Any, request: Request, indices: range) -> Tensor:
    start = start_of(pipeline, request, indices)
    return draw(pipeline, start, request.sampler, request.guidance, request.size).images.cpu()


def _png(index: int) -> Path:
    return Path(f"{index // GROUP:05d}") / f"{index:08d}.png"


def _shard(block: range) -> str:
    return f"images-{block.start:08d}-{block.stop:08d}.npz"


def _is_there(out: Path, block: range, request: Request) -> bool:
    if request.kind == "npz":
        return (out / _shard(block)).is_file()
    return all((out / _png(index)).is_file() for index in block)


def _write(out: Path, block: range, images: Tensor, prompts: Sequence[str], request: Request) -> None:
    if request.kind == "png":
        for index, image in zip(block, images, strict=True):
            write_bytes(out / _png(index), encode_png(image))
        return
    buffer = io.BytesIO()
    pixels = to_uint8(images).permute(0, 2, 3, 1).numpy()
    np.savez_compressed(buffer, images=pixels, prompts=np.array(prompts, dtype=str))
    write_bytes(out / _shard(block), buffer.getvalue())
