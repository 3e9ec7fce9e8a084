"""In- and out-painting: what a mask hides is drawn again by diffusers' in-painting pipeline, the rest is kept.

Any text-to-image U-Net serves: at each step the pipeline puts the known latents back, with the noise of that step. The
known pixels are put back at the end, so that the VAE does not change them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from immiscible.errors import InputError
from immiscible.io.console import tracked
from immiscible.samplers import PipelineSampler
from immiscible.samplers.base import check_finite
from immiscible.seeds import derive, seeded
from immiscible.tasks.stable_diffusion.pipelines import WITHOUT_CHECKER, embeddings
from immiscible.tasks.stable_diffusion.quiet import quiet
from immiscible.tasks.stable_diffusion.texts import tokenize

MASKS = ("center", "outer")


@dataclass(frozen=True)
class Painting:
    """How to paint.

    Attributes:
        sampler: How to sample.
        guidance: The weight of guidance; 1 is none.
        strength: The share of the noise levels that hidden parts go through; 1 forgets what was there.
        seed: Image ``i`` depends on the seed and on ``i`` only.
        batch_size: Images painted at once.
    """

    sampler: PipelineSampler
    guidance: float
    strength: float = 1.0
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise InputError(f"--strength must be in (0, 1], got {self.strength}.")


def read_mask(spec: str, size: tuple[int, int]) -> Tensor:
    """A mask with shape (1, H, W), 1 where the image is drawn again.

    Arguments:
        spec: ``center`` for the central square of half the side, ``outer`` for all but that, or an image file, white
            where the image is drawn again.
        size: Height and width of the images.

    Raises:
        InputError: If it is no such file, or hides nothing.
    """
    if spec in MASKS:
        height, width = size
        mask = torch.zeros(1, height, width)
        mask[:, height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
        return mask if spec == "center" else 1 - mask
    from PIL import Image

    try:
        with Image.open(os.path.expanduser(spec), formats=("PNG", "JPEG")) as image:
            grey = image.convert("L").resize((size[1], size[0]), Image.Resampling.NEAREST)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"--mask must be center, outer or a PNG or JPEG image, got {spec}: {error}.") from error
    mask = (torch.from_numpy(np.array(grey)) >= 128).float()[None]
    if not bool(mask.any()):
        raise InputError(f"--mask must hide something, got {spec} without white pixels.")
    return mask


def inpaint(pipeline: Any, x: Tensor, prompts: Sequence[str], mask: Tensor, how: Painting, first: int = 0) -> Tensor:
    """Draws what the mask hides.

    Arguments:
        pipeline: A text-to-image pipeline.
        x: RGB images in [-1, 1], with shape (N, 3, H, W).
        prompts: A prompt for each.
        mask: With shape (1, H, W), 1 where the images are drawn again.
        how: How to paint.
        first: The number of the first of them.

    Returns:
        The images, with the same shape on the CPU; where the mask is 0 they are as they were.
    """
    slices = [slice(begin, begin + how.batch_size) for begin in range(0, len(x), how.batch_size)]
    parts = ((x[part], prompts[part]) for part in slices)
    return torch.cat(list(inpaint_parts(pipeline, parts, len(x), mask, how, first)))


def inpaint_parts(
    pipeline: Any,
    parts: Iterable[tuple[Tensor, Sequence[str]]],
    count: int,
    mask: Tensor,
    how: Painting,
    first: int = 0,
) -> Iterator[Tensor]:
    """Draws what the mask hides, part by part, so that no more than one part is in memory, see :func:`inpaint`.

    Arguments:
        pipeline: A text-to-image pipeline.
        parts: Images with a prompt for each, the same number in all parts but the last: ``how.batch_size``.
        count: How many images that is.
        mask: With shape (1, H, W), 1 where the images are drawn again.
        how: How to paint.
        first: The number of the first of them.
    """
    painter = _painter(pipeline, how.sampler)
    for index, (x, prompts) in enumerate(tracked(parts, f"painting {count} images", -(-count // how.batch_size))):
        yield _paint(painter, x, prompts, mask, how, first + index * how.batch_size)


def _painter(pipeline: Any, sampler: PipelineSampler) -> Any:
    with quiet():
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_inpaint import (
            StableDiffusionInpaintPipeline,
        )
    parts = {name: getattr(pipeline, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    scheduler = sampler.scheduler(dict(pipeline.scheduler.config))
    painter = StableDiffusionInpaintPipeline(**parts, scheduler=scheduler, **WITHOUT_CHECKER)
    painter.set_progress_bar_config(disable=True)
    return painter


@torch.no_grad()
def _paint(painter: Any, x: Tensor, prompts: Sequence[str], mask: Tensor, how: Painting, first: int) -> Tensor:
    ids = tokenize(painter.tokenizer, prompts).to(painter.device)
    seeds = [derive(how.seed, "inpaint", first + i) for i in range(len(x))]
    drawn = painter(
        **embeddings(painter, ids, how.guidance),
        image=(x + 1) / 2,
        mask_image=mask.expand(len(x), 1, -1, -1),
        height=x.shape[2],
        width=x.shape[3],
        num_inference_steps=how.sampler.steps,
        guidance_scale=how.guidance,
        strength=how.strength,
        generator=[seeded(seed) for seed in seeds],
        output_type="pt",
    )
    return torch.where(mask.bool(), check_finite(drawn.images.float().cpu() * 2 - 1), x)


def side_by_side(x: Tensor, mask: Tensor, painted: Tensor) -> Tensor:
    """Each image, with what was hidden in grey, and painted, in turn, with shape (3 N, 3, H, W)."""
    hidden = torch.where(mask.bool(), torch.zeros(()), x)
    return torch.stack([x, hidden, painted], 1).flatten(0, 1)


def check_size(pipeline: Any, size: int) -> int:
    """Checks that a pipeline can draw images of a size."""
    unit = max(8, pipeline.vae_scale_factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1))
    if size % unit:
        raise InputError(f"--image-size must be a multiple of {unit} for this model, got {size}.")
    return size
