"""Captions as token ids, and token ids as what the U-Net attends to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from immiscible.config.values import told
from immiscible.data import Images
from immiscible.data.listing import NEAR_MISSES
from immiscible.errors import InputError
from immiscible.io.console import say

# Captions that are tokenised at once.
CHUNK = 4096
# Captions that are pooled at once. Fixed, so that the same caption gives the same numbers to the bit.
ENCODED = 32
# Characters of a caption that a warning shows.
SHOWN = 80
# Folders that are called after what is in them, and are no class.
CONTAINERS = ("images", "image", "imgs", "img", "pictures", "photos", "data", "dataset", "png", "jpg", "jpeg", "raw")


def captions_of(data: Images, template: str) -> tuple[str, ...]:
    """The caption of each image: its own, or the name of its class in a template.

    Raises:
        InputError: If the data has neither, or what stands for classes surely is none.
    """
    if data.captions:
        return data.captions
    fix = "add a metadata.jsonl with a file_name and a text for each image, a .txt beside each, or class sub-folders"
    near = [reason for reason in data.skipped if reason.partition(",")[0].lower() in NEAR_MISSES]
    if near:
        raise InputError(f"--data must have captions for Stable Diffusion, got {data.name} with {near[0]}: {fix}.")
    if data.labels is None:
        raise InputError(f"--data must have captions or classes for Stable Diffusion, got {data.name} without: {fix}.")
    if len(data.class_names) == 1 and data.class_names[0].lower() in CONTAINERS:
        raise InputError(
            f"--data must have captions or classes for Stable Diffusion, got {data.name} with all images in the folder "
            f"{data.class_names[0]}, whose name would be the caption of each: {fix}."
        )
    return tuple(caption_of_class(data.class_names[label], template) for label in data.labels.tolist())


def check_template(data: Images, template: str) -> None:
    """Checks that a template of captions is not given to data that has captions of its own.

    Raises:
        InputError: If it would change nothing.
    """
    if data.captions and template != "{}":
        raise InputError(
            f"--caption-template is for data with class names only, got {told(template)} with {data.name}, which has "
            "captions of its own: leave it out."
        )


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


def tell_cut(tokenizer: Any, data: Images, captions: Sequence[str]) -> None:
    """Says how many captions of some data are longer than what is read of them.

    Only captions of more bytes than tokens are tried, since a token is at least a byte.
    """
    most = tokenizer.model_max_length
    # Two tokens mark the beginning and the end.
    long = [caption for caption in captions if len(caption.encode()) > most - 2]
    lengths = [len(found) for found in tokenizer(long, verbose=False)["input_ids"]] if long else []
    cut = [caption for caption, length in zip(long, lengths, strict=True) if length > most]
    if cut and PartialState().is_main_process:
        say(
            f"warning: {len(cut)} of {len(captions)} captions of {data.name} are longer than the {most} tokens that "
            f"are read of each, and are cut, such as: {cut[0][:SHOWN]} ..."
        )


@torch.no_grad()
def encode_tokens(text_encoder: Any, ids: Tensor) -> Tensor:
    """What the U-Net attends to, with shape (B, L, width). Each caption is encoded once, however often it comes."""
    unique, back = torch.unique(ids, dim=0, return_inverse=True)
    return text_encoder(unique)[0][back].float()


class PooledCaptions:
    """Captions as numbers: the mean of what the text encoder makes of the tokens of each.

    It is the mean over the tokens after the one that begins a caption, up to the first that ends it.

    Arguments:
        text_encoder: The text encoder.
        end: The token that ends a caption.
        most: Of the last so many captions that differ the numbers are kept, and not computed again.
    """

    def __init__(self, text_encoder: Any, end: int, most: int = 2**16) -> None:
        self._text_encoder, self._end, self.most = text_encoder, end, most
        self._kept: dict[bytes, Tensor] = {}

    def __call__(self, ids: Tensor) -> Tensor:
        """The captions of token ids with shape (B, L), ``float32`` on the CPU with shape (B, width)."""
        ids = ids.cpu()
        keys = [row.numpy().tobytes() for row in ids]
        new = {key: place for place, key in enumerate(keys) if key not in self._kept}
        found = {key: self._kept[key] for key in keys if key not in new}
        places = list(new.values())
        for first in range(0, len(places), ENCODED):
            some = places[first : first + ENCODED]
            found |= zip([keys[place] for place in some], self._encoded(ids[some]), strict=True)
        self._kept |= found
        if len(self._kept) > self.most:
            self._kept = dict(list(self._kept.items())[-self.most :])
        return torch.stack([found[key] for key in keys])

    @torch.no_grad()
    def _encoded(self, ids: Tensor) -> Tensor:
        device = next(self._text_encoder.parameters()).device
        filled = torch.cat([ids, ids[:1].expand(ENCODED - len(ids), -1)])
        states = self._text_encoder(filled.to(device))[0][: len(ids)].float().cpu()
        ends = (ids == self._end).long()
        # What comes after the first of them is not read by the tokens before it.
        read = (ends.cumsum(1) == ends).float()
        read[:, 0] = 0
        return (states * read[..., None]).sum(1) / read.sum(1, keepdim=True)
