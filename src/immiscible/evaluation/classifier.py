"""Features of a small classifier, trained once on the labelled data and kept.

The network is a handful of convolutions, and the features are the 64 values before its last layer. Training takes some
seconds on a CPU. It is seeded, so the same data gives the same features on the same machine, and leaves torch's
global random state as it was. A tenth of the images is held out, and the accuracy on it is part of the features' name:
features of a classifier that has learnt little say little.

What was trained is kept as safetensors under a name made of the data's fingerprint and the version of this recipe. A
file that is damaged, or does not match its checksum, is replaced with a warning.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from immiscible.data import Images
from immiscible.errors import InputError
from immiscible.io import files

# To be raised with every change below that changes the features.
RECIPE = 1
FEATURES = 64
WIDTH = 32
SEED = 0
BATCH = 64
# The number of steps grows with the data, four epochs, between these.
STEPS = (600, 3000)
RATE = 3e-3
HELD_OUT = 0.1
# Fewer images per class than these, on average, are too few to learn from.
IMAGES_PER_CLASS = 10


class Network(nn.Module):
    """Convolutions that halve the image down to 4 pixels a side, and two linear layers, the first one the features."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        side = min(shape[1:])
        layers = [_block(shape[0], WIDTH, stride=2 if side > 16 else 1)]
        side = (side + 1) // 2 if side > 16 else side
        width = WIDTH
        while side > 4:
            layers.append(_block(width, FEATURES, stride=2))
            side, width = (side + 1) // 2, FEATURES
        layers.append(_block(width, FEATURES, stride=1))
        pooled = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * FEATURES, FEATURES), nn.SiLU()]
        self.features = nn.Sequential(*layers, *pooled)
        self.logits = nn.Linear(FEATURES, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.features(images))


def _block(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.GroupNorm(8, outputs), nn.SiLU())


@dataclass(frozen=True, eq=False)
class ClassifierFeatures:
    """The values before the last layer of a trained classifier.

    Arguments:
        name: What was trained on what, and how well.
        network: The trained network.
    """

    name: str
    network: Network

    @property
    def dim(self) -> int:
        return FEATURES

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        return self.network.features(images.to(self.network.logits.weight.device))


def obstacle(data: Images) -> str | None:
    """Why no classifier can be trained on this data, or nothing."""
    if data.classes < 2:
        return f"labels of at least two classes, but {data.name} has {data.classes or 'no labels'}"
    if len(data) < IMAGES_PER_CLASS * data.classes:
        return f"{IMAGES_PER_CLASS} images per class, but {data.name} has {len(data)} in {data.classes} classes"
    return None


def train_or_load(data: Images, cache: Path, device: str | torch.device = "cpu") -> ClassifierFeatures:
    """The features of a classifier for this data, from the cache or trained now and put there.

    Arguments:
        data: The labelled data.
        cache: The directory where trained classifiers are kept.
        device: Where the features are computed.

    Raises:
        InputError: If the data has no labels, only one class, or too few images.
    """
    path = cache / f"classifier-{RECIPE}-{data.fingerprint()[:24]}.safetensors"
    trained = _restore(data, path) if path.exists() else None
    if trained is None:
        trained = train(data)
        _keep(*trained, path)
    network, accuracy = trained
    name = f"classifier on {data.name} ({FEATURES} features, {100 * accuracy:.1f} % held-out accuracy)"
    return ClassifierFeatures(name, network.to(device).eval().requires_grad_(False))


def train(data: Images) -> tuple[Network, float]:
    """Trains a classifier on nine tenths of the data, on the CPU.

    Returns:
        The network, and its accuracy on the tenth that it has not seen.

    Raises:
        InputError: If the data has no labels, only one class, or too few images.
    """
    problem = obstacle(data)
    if problem or data.labels is None:
        raise InputError(f"the features `classifier` need {problem}: choose `pixels`.")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.default_generator.manual_seed(SEED)
        network = Network(data.shape, data.classes)
        order, unseen = torch.randperm(len(data)), round(HELD_OUT * len(data))
        _fit(network, data, data.labels, order[unseen:])
    return network.eval(), _accuracy(network, data, data.labels, order[:unseen])


def _fit(network: Network, data: Images, labels: Tensor, seen: Tensor) -> None:
    steps = min(max(4 * len(seen) // BATCH, STEPS[0]), STEPS[1])
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(steps):
        index = seen[torch.randint(len(seen), (BATCH,))]
        optimizer.zero_grad()
        F.cross_entropy(network(data.batch(index)[0]), labels[index]).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _accuracy(network: Network, data: Images, labels: Tensor, index: Tensor) -> float:
    right = 0
    for part in index.split(4 * BATCH):
        right += int((network(data.batch(part)[0]).argmax(1) == labels[part]).sum())
    return right / len(index)


def _checksum(weights: dict[str, Tensor], accuracy: str) -> str:
    digest = hashlib.sha256(accuracy.encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().numpy().data)
    return digest.hexdigest()


def _keep(network: Network, accuracy: float, path: Path) -> None:
    from safetensors.torch import save

    weights = network.state_dict()
    metadata = {"accuracy": repr(accuracy), "checksum": _checksum(weights, repr(accuracy))}
    try:
        files.write_bytes(path, save(weights, metadata))
    except OSError as error:
        warnings.warn(f"cannot keep the classifier, so it will be trained again: {error}", stacklevel=2)


def _restore(data: Images, path: Path) -> tuple[Network, float] | None:
    """The network and its accuracy as they were kept, or a warning and nothing if the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        if _checksum(weights, metadata["accuracy"]) != metadata["checksum"]:
            raise ValueError("wrong checksum")
        with torch.random.fork_rng(devices=[]):
            network = Network(data.shape, data.classes)
        network.load_state_dict(weights)
        return network, float(metadata["accuracy"])
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        warnings.warn(f"{path} is damaged and will be replaced: {error}", stacklevel=2)
        return None
