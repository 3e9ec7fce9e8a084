"""CLIP score (arXiv 2104.08718) of images and the prompts that they were drawn for, by torchmetrics.

The weights come from a folder or the hub and are read from safetensors only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from immiscible.errors import InputError, one_line
from immiscible.io.png import to_uint8

CHUNK = 64


@dataclass(frozen=True)
class ClipScore:
    """The CLIP score by some model.

    Arguments:
        name: The model, as every output calls it.
        model: ``CLIPModel``.
        processor: ``CLIPProcessor``.
    """

    name: str
    model: Any
    processor: Any

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> float:
        """The mean of 100 times the cosine of image and text, at least 0.

        Arguments:
            images: RGB images in [-1, 1], with shape (N, 3, H, W).
            prompts: A prompt for each.
        """
        meter = self.meter()
        meter.add(images, prompts)
        return meter.mean()

    def meter(self) -> ClipMeter:
        """Scores images that arrive in parts."""
        return ClipMeter(self)


class ClipMeter:
    """The CLIP score of images that arrive in parts, none of which is kept."""

    def __init__(self, clip: ClipScore) -> None:
        from torchmetrics.multimodal.clip_score import CLIPScore

        self.device = clip.model.device
        # Among several processes each scores by itself: by default all would have to call this.
        loaded = (_Plain(clip.model), clip.processor)
        self.metric = CLIPScore(model_name_or_path=lambda: loaded, sync_on_compute=False).to(self.device)

    @torch.no_grad()
    def add(self, images: Tensor, prompts: Sequence[str]) -> None:
        """Scores a part: images with shape (N, 3, H, W), and a prompt for each."""
        for first in range(0, len(images), CHUNK):
            part = slice(first, first + CHUNK)
            self.metric.update(list(to_uint8(images[part].to(self.device))), list(prompts[part]))

    def mean(self) -> float:
        """The mean over all images so far, at least 0."""
        return float(self.metric.compute())


class _Plain(torch.nn.Module):
    """A CLIP model that gives features as bare tensors, as torchmetrics expects of all versions of transformers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = model.config

    def get_image_features(self, *values: Tensor) -> Tensor:
        return _tensor(self.model.get_image_features(*values))

    def get_text_features(self, *values: Tensor) -> Tensor:
        return _tensor(self.model.get_text_features(*values))


def _tensor(features: Any) -> Tensor:
    return features if isinstance(features, Tensor) else features.pooler_output


def load_clip(source: str, device: str | torch.device = "cpu") -> ClipScore:
    """Loads a CLIP model from a folder or the hub, onto a device.

    Raises:
        InputError: If it cannot be loaded.
    """
    from transformers import CLIPModel, CLIPProcessor

    place = os.path.expanduser(source)
    try:
        model: Any = CLIPModel.from_pretrained(place, use_safetensors=True)
        processor = CLIPProcessor.from_pretrained(place)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(
            f"--clip must be a folder with a CLIP model, or its name on a hub that can be reached from here, got "
            f"{source}: {one_line(error)}"
        ) from error
    return ClipScore(source, model.to(device).eval(), processor)
