"""The parts of the tiny pipeline, of the classes of Stable Diffusion and with random weights, and its schedule."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from immiscible.config.recipes import TinyPipeline
from immiscible.data import Images
from immiscible.errors import InputError

START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 1000
TOKENS = 24
TEXT_WIDTH = 64
LATENT_CHANNELS = 4
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


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


def make_text_encoder(tokenizer: Any) -> Any:
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


def make_unet(settings: TinyPipeline, data: Images) -> Any:
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


def make_vae(settings: TinyPipeline, data: Images) -> Any:
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
