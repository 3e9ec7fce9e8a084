"""A pipeline of the classes of Stable Diffusion at a size that a CPU trains, with a VAE that has learnt some data.

The tokenizer is a byte-pair encoding of the data's captions. The text encoder has random weights: it tells captions
apart and knows nothing of their meaning. The VAE is trained, and its scaling factor set so that latents have unit
variance.
The U-Net is new. Schedule and scheduler are those of Stable Diffusion 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from immiscible.config.recipes import TinyPipeline
from immiscible.data import Images
from immiscible.data.images import evenly_spaced
from immiscible.data.shards import Head
from immiscible.errors import InputError
from immiscible.io.console import say, tracked
from immiscible.io.locks import locked
from immiscible.io.outputs import check_output, folder_of
from immiscible.seeds import derive, generator, seed_all
from immiscible.tasks.base import load_pixels
from immiscible.tasks.stable_diffusion.latents import Encoder
from immiscible.tasks.stable_diffusion.pipelines import make_pipeline, save_pipeline
from immiscible.tasks.stable_diffusion.texts import captions_of, check_template

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 1000
TOKENS = 24
TEXT_WIDTH = 64
LATENT_CHANNELS = 4
# Small enough to leave the reconstruction alone, large enough to keep latents bounded.
KL_WEIGHT = 1e-5
PEAK_RATE = 2e-3
HELD_OUT = 256
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Reconstruction:
    """How well a VAE gives back images that it was not trained on.

    Attributes:
        psnr: Peak signal-to-noise ratio in decibels, of all held-out pixels together.
        mse: Mean squared error of pixels in [-1, 1].
        explained: The share of the pixels' variance around the mean image that is given back, at most 1.
        images: How many images were held out.
    """

    psnr: float
    mse: float
    explained: float
    images: int

    def __str__(self) -> str:
        return (
            f"PSNR {self.psnr:.1f} dB, mean squared error {self.mse:.5f}, {100 * self.explained:.1f} % of the variance "
            f"explained, on {self.images} held-out images"
        )


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
        parts = {"tokenizer": tokenizer, "text_encoder": _text_encoder(tokenizer), "unet": _unet(settings, data)}
        vae = _vae(settings, data)
        held_out = evenly_spaced(len(data), min(HELD_OUT, max(1, len(data) // 10)))
        _train(vae, data, _others(len(data), held_out), settings)
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=1 / _latent_deviation(vae, data))
    quality = reconstruction(vae, data, held_out)
    _write(settings.out, {**parts, "vae": vae}, _read_me(settings, data, quality))
    return quality


def make_tokenizer(captions: Sequence[str]) -> Any:
    """CLIP's tokenizer with merges learnt from captions; every byte is known, so every text can be written."""
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=2 * len(letters) + MERGES,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner: Any = CLIPTokenizer().backend_tokenizer
    learner.train_from_iterator(dict.fromkeys(captions), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)  # pyright: ignore[reportArgumentType]


def _text_encoder(tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _unet(settings: TinyPipeline, data: Images) -> Any:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    width = settings.width
    return UNet2DConditionModel(
        sample_size=data.shape[1] // 4,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(width, 2 * width),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def _vae(settings: TinyPipeline, data: Images) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    width = settings.vae_width
    blocks: Any = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (width, 2 * width, 2 * width),
    }
    if data.shape[1] != data.shape[2] or data.shape[1] % 16:
        raise InputError(
            f"--image-size must be a multiple of 16 for the tiny pipeline, got images of {data.shape[1]} x "
            f"{data.shape[2]}."
        )
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        **blocks,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=data.shape[1],
    )


def _others(count: int, held_out: Tensor) -> Tensor:
    """The indices that are not held out."""
    kept = torch.ones(count, dtype=torch.bool)
    kept[held_out] = False
    return kept.nonzero().flatten() if bool(kept.any()) else torch.arange(count)


def _train(vae: Any, data: Images, seen: Tensor, settings: TinyPipeline) -> None:
    """Trains the VAE to give images back, with a small weight on the entropy of its latents."""
    optimizer = torch.optim.AdamW(vae.parameters(), PEAK_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=settings.steps)
    draws = generator("cpu", settings.seed, "tiny-vae")
    say(f"training the VAE on {len(seen)} images of {data.name}: {settings.steps} steps")
    for step in tracked(range(settings.steps), "training the VAE", settings.steps):
        x = data.batch(seen[torch.randint(len(seen), (settings.batch_size,), generator=draws)])[0]
        posterior = vae.encode(x).latent_dist
        loss = F.mse_loss(vae.decode(posterior.sample(generator=draws)).sample, x) + KL_WEIGHT * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 200 == 0:
            say(f"step {step + 1}/{settings.steps}  loss {loss.item():.4f}")


def _latent_deviation(vae: Any, data: Images) -> float:
    x = data.batch(evenly_spaced(len(data), 1024))[0]
    mean, std = Encoder(vae, torch.device("cpu")).in_chunks(x)
    return float((mean.double().var() + std.double().square().mean()).sqrt())


@torch.no_grad()
def reconstruction(vae: Any, data: Images, index: Tensor) -> Reconstruction:
    """How well a VAE gives back some images."""
    x = data.batch(index)[0]
    back = torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample for part in x.split(32)])
    mse = float((back.clamp(-1, 1) - x).double().square().mean())
    variance = float((x - data.mean()).double().square().mean())
    return Reconstruction(float(-10 * torch.tensor(mse / 4).log10()), mse, 1 - mse / variance, len(index))


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
