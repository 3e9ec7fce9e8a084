"""Captions as token ids, and token ids as what the U-Net attends to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from immiscible.data import Images
from immiscible.errors import InputError

# Captions that are tokenised at once.
CHUNK = 4096


def captions_of(data: Images, template: str) -> tuple[str, ...]:
    """The caption of each image: its own, or the name of its class in a template.

    Raises:
        InputError: If the data has neither.
    """
    if data.captions:
        return data.captions
    if data.labels is None:
        raise InputError(
            f"--data must have captions or classes for Stable Diffusion, got {data.name} without: add a metadata.jsonl "
            "with a file_name and a text for each image, a .txt beside each, or class sub-folders."
        )
    return tuple(caption_of_class(data.class_names[label], template) for label in data.labels.tolist())


def caption_of_class(name: str, template: str) -> str:
    """The caption of an image that is known by its class only."""
    return template.replace("{}", name)


def tokenize(tokenizer: Any, captions: Sequence[str]) -> Tensor:
    """Captions as token ids, cut or padded to the tokenizer's length, ``int64`` with shape (N, L)."""
    parts = []
    for first in range(0, len(captions), CHUNK):
        words = list(captions[first : first + CHUNK])
        found = tokenizer(words, padding="max_length", truncation=True, max_length=tokenizer.model_max_length)
        parts.append(torch.tensor(found["input_ids"]))
    return torch.cat(parts)


@torch.no_grad()
def encode_tokens(text_encoder: Any, ids: Tensor) -> Tensor:
    """What the U-Net attends to, with shape (B, L, width). Each caption is encoded once, however often it comes."""
    unique, back = torch.unique(ids, dim=0, return_inverse=True)
    return text_encoder(unique)[0][back].float()
