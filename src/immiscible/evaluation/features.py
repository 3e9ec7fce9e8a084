"""Chooses the features that images are compared in.

FID and its relatives compare images by the features of some network, and a figure means nothing without the name of
that network. The usual one, Inception-v3, saw photographs of 299x299 pixels: a digit of 8x8 grey pixels enlarged to
that size is unlike anything it learnt. So Inception is used for RGB images of at least 32 pixels only, and only where
its weights are available. Then, for RGB images of any size, comes EfficientNet-Lite0, where it is installed. Otherwise
a small classifier is trained once on the labelled data, whose features separate these images; without labels, the
principal components of the pixels are used. Figures in different features cannot be compared with each other, so every
output names them, and :mod:`immiscible.evaluation.ladder` says whether they can tell what is worse.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from immiscible.data import Images
from immiscible.errors import InputError
from immiscible.evaluation import classifier, efficientnet, inception
from immiscible.evaluation import pca as components

CHOICES = ("efficientnet-lite", "auto", "inception", "classifier", "pixels")


@runtime_checkable
class Features(Protocol):
    """Anything that turns images into vectors, and says what it is."""

    @property
    def name(self) -> str:
        """What these features are, for every output that shows a score."""
        ...

    @property
    def dim(self) -> int:
        """The number of features of an image."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Computes features.

        Arguments:
            images: Images in [-1, 1], ``float32`` with shape (B, C, H, W).

        Returns:
            Their features, ``float32`` with shape (B, dim).
        """
        ...


def features_for(
    data: Images, choice: str = "auto", *, cache: Path | None = None, device: str | torch.device = "cpu"
) -> Features:
    """Chooses and prepares the features in which images are compared with some data.

    Arguments:
        data: The data: the classifier is trained on it, and the principal components are its own.
        choice: ``inception``, ``efficientnet-lite``, ``classifier``, ``pixels``, or ``auto`` for the first of them
            that suits the data and is available. Offline, ``auto`` takes at most a few seconds longer, and images that
            are small or grey never cause a download.
        cache: Where trained classifiers are kept. By default ``$IMMISCIBLE_CACHE``, or else ``~/.cache/immiscible``.
        device: Where features are computed. The classifier is always trained on the CPU, for the same result.

    Raises:
        InputError: If the choice is unknown or not available.

    Example:
        >>> from immiscible.data import load
        >>> features = features_for(load("digits"))
        >>> features.name
        'classifier on digits (64 features, 9... % held-out accuracy)'
    """
    if choice not in CHOICES:
        raise InputError(f"the features must be one of {', '.join(CHOICES)}, got `{choice}`.")
    if choice == "inception" or (choice == "auto" and _inception_fits(data)):
        try:
            return inception.load(device)
        except InputError:
            if choice == "inception":
                raise
    if choice == "efficientnet-lite" or (choice == "auto" and data.shape[0] == 3 and efficientnet.installed()):
        return efficientnet.load(device)
    if choice == "classifier" or (choice == "auto" and classifier.obstacle(data) is None):
        return classifier.train_or_load(data, cache or default_cache(), device)
    return components.fit(data, device)


def _inception_fits(data: Images) -> bool:
    channels, height, width = data.shape
    return channels == 3 and min(height, width) >= 32


def default_cache() -> Path:
    """Where trained classifiers are kept."""
    chosen = os.environ.get("IMMISCIBLE_CACHE")
    return Path(chosen).expanduser() if chosen else Path("~/.cache/immiscible").expanduser()


@torch.no_grad()
def embed(features: Features, images: Tensor, *, batch_size: int = 128) -> Tensor:
    """Computes the features of many images, some at a time, without gradient.

    Arguments:
        features: The features.
        images: Images with shape (N, C, H, W). Values outside [-1, 1] are clamped, as they are when an image is saved.
        batch_size: How many images at a time.

    Returns:
        The features, ``float32`` on the CPU with shape (N, dim).
    """
    parts = [features(part.to(torch.float32).clamp(-1, 1)).cpu() for part in images.split(batch_size)]
    return torch.cat(parts)
