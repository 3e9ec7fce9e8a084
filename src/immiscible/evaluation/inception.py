"""Inception-v3 features, in which FID is usually given: torchmetrics' network with the weights of torch-fidelity.

Images become bytes and are resized to 299x299 as in the original TensorFlow code, so that figures can be compared with
published ones. The weights (91 MB) are looked for where torch-fidelity keeps them, in torch hub's folder, and fetched
from its release page otherwise. Their SHA-256 must begin as their name says, and they are read as plain tensors.
"""

from __future__ import annotations

import http.client
import importlib.util
import io
import logging
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from immiscible.errors import InputError
from immiscible.evaluation.weights import check_sha256, plain_tensors
from immiscible.io import files
from immiscible.io.png import to_uint8

FILE = "weights-inception-2015-12-05-6726825d.pth"
SHA256_PREFIX = "6726825d"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
# Seconds without an answer, or without further bytes, after which the network counts as absent.
TIMEOUT = 3
FEATURES = 2048


@dataclass(frozen=True, eq=False)
class InceptionFeatures:
    """The 2,048 values before the last layer of Inception-v3.

    Arguments:
        network: Takes ``uint8`` images with shape (B, 3, H, W) and gives (B, 2048).
        device: Where the network is.
    """

    network: nn.Module
    device: torch.device

    @property
    def name(self) -> str:
        return f"Inception-v3 ({FEATURES} features, weights of torch-fidelity)"

    @property
    def dim(self) -> int:
        return FEATURES

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Computes features, see :class:`~immiscible.evaluation.features.Features`. Grey images become RGB."""
        pixels = to_uint8(images.to(self.device))
        return self.network(pixels.expand(-1, 3, -1, -1)).float()


def load(device: str | torch.device = "cpu") -> InceptionFeatures:
    """Inception with its weights, fetched if they are not there yet.

    Raises:
        InputError: If torch-fidelity is not installed, or the weights are damaged or not available.
    """
    if importlib.util.find_spec("torch_fidelity") is None:
        raise InputError(
            "the features `inception` need torch-fidelity, which is not installed: `pip install torch-fidelity`."
        )
    plain = _plain_tensors(weights())
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3("inception-v3-compat", [str(FEATURES)], plain, antialias=False)  # pyright: ignore[reportArgumentType]
    return InceptionFeatures(network.to(device), torch.device(device))


def weights() -> Path:
    """The checked file with the weights, fetched if it is not there yet."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    try:
        if path.is_file():
            _check(path.read_bytes(), f"{path}: delete it")
        else:
            data = _fetch()
            _check(data, f"what {URL} sent: try again")
            files.write_bytes(path, data)
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f"the features `inception` need their weights, which cannot be had ({error}): put {URL} at {path}."
        ) from error
    return path


def _fetch() -> bytes:
    with urllib.request.urlopen(URL, timeout=TIMEOUT) as answer:
        logging.getLogger(__name__).warning("fetching the weights of Inception-v3, 91 MB, once")
        return answer.read()


def _check(data: bytes, origin: str) -> None:
    check_sha256(data, SHA256_PREFIX, "Inception", origin)


def _plain_tensors(path: Path) -> io.BytesIO:
    """The weights, read as nothing but tensors and packed again: torch-fidelity itself would run any pickle."""
    packed = io.BytesIO()
    torch.save(plain_tensors(path.read_bytes()), packed)
    packed.seek(0)
    return packed
