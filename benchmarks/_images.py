"""Images to time couplings on. Imports nothing of the package, so that other checkouts can be timed on them too."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")


def images(count: int) -> tuple[Tensor, str]:
    """Image-like data with shape (count, 3, 32, 32) in [-1, 1], and what it is."""
    if FASHION_MNIST.exists():
        pixels = np.frombuffer(gzip.decompress(FASHION_MNIST.read_bytes()), np.uint8, offset=16).copy()
        small = torch.from_numpy(pixels).view(-1, 1, 28, 28)[:count].float() / 127.5 - 1
        name = "Fashion-MNIST at 3x32x32"
    else:
        small = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(0)).tanh()
        name = "smooth synthetic images at 3x32x32"
    large = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    return large.expand(-1, 3, -1, -1).contiguous(), name
