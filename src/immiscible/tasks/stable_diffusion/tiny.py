"""A pipeline of the classes of Stable Diffusion at a size that a CPU trains, with a VAE that has learnt some data.

The tokenizer is a byte-pair encoding of the data's captions. The text encoder has random weights: it separates captions
and knows nothing of their meaning. The VAE is trained, and its scaling factor set so that latents have unit
variance.
The U-Net is new. Schedule and scheduler are those of Stable Diffusion 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from immiscible.config.recipes import TinyPipeline
from immiscible.data import Images
from immiscible.data.images import evenly_spaced
from immiscible.data.shards import Head
from immiscible.io.console import say
from immiscible.io.locks import locked
from immiscible.io.outputs import check_output, folder_of
from immiscible.seeds import derive, seed_all
from immiscible.tasks.base import load_pixels
from immiscible.tasks.stable_diffusion.pipelines import make_pipeline, save_pipeline
from immiscible.tasks.stable_diffusion.texts import captions_of, check_template
from immiscible.tasks.stable_diffusion.tiny_parts import (
    SCHEDULER,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    make_vae,
)
from immiscible.tasks.stable_diffusion.tiny_vae import Reconstruction, latent_deviation, reconstruction, train, without

HELD_OUT = 256


def make_tiny(settings: TinyPipeline) -> Reconstruction:
    """Builds a pipeline, trains its VAE, and writes it to a new directory.

    Raises:
        InputError: If the data does not fit, the directory is not new, or another process makes one there.
        WriteError: If the disk is full, or does not let it be written.
    """

    def check() -> None:
        check_output(settings.out, "new", flag="DIR", inputs=folder_of(settings.data))

    check()
    with locked(settings.out, directory=False, check=check):
        return _make(settings)


def _make(settings: TinyPipeline) -> Reconstruction:
    """Makes the pipeline in a place that is locked, see :func:`make_tiny`."""
    data = load_pixels(settings, settings.image_size).in_colour()
    if isinstance(data, Head):
        say(f"warning: made of {len(data)} images of {data.name}, and of no others.")
    check_template(data, settings.caption_template)
    captions = captions_of(data, settings.caption_template)
    with torch.random.fork_rng(devices=[]):
        seed_all(derive(settings.seed, "tiny"))
        tokenizer = make_tokenizer(captions)
        parts = {
            "tokenizer": tokenizer,
            "text_encoder": make_text_encoder(tokenizer),
            "unet": make_unet(settings, data),
        }
        vae = make_vae(settings, data)
        held_out = evenly_spaced(len(data), min(HELD_OUT, max(1, len(data) // 10)))
        train(vae, data, without(len(data), held_out), settings)
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=1 / latent_deviation(vae, data))
    quality = reconstruction(vae, data, held_out)
    _write(settings.out, {**parts, "vae": vae}, _read_me(settings, data, quality))
    return quality


def _write(out: Path, parts: dict[str, Any], read_me: str) -> None:
    from diffusers.schedulers.scheduling_pndm import PNDMScheduler

    save_pipeline(make_pipeline(**parts, scheduler=PNDMScheduler(**SCHEDULER)), out, read_me)


def _read_me(settings: TinyPipeline, data: Images, quality: Reconstruction) -> str:
    return (
        "# A tiny pipeline of the classes of Stable Diffusion\n\n"
        f"Made by `immiscible make-tiny-sd` for {len(data)} images of {data.shape[1]} pixels a side. The VAE was "
        f"trained for {settings.steps} steps on them: {quality}. Text encoder and U-Net have random weights: train the "
        "U-Net with `immiscible train stable-diffusion --mode scratch`.\n"
    )
