"""A ladder of known faults: whether features can tell what is worse.

A score says something about images only where its features see what is wrong with them. So faults that are known are
put into real images, each at two strengths: they are blurred, noise is added, their parts are shuffled, a few of them
are copied, and they are replaced by draws from a Gaussian mixture over their principal components, or from a single
Gaussian, which no network has seen.
Half of some real images is scored against the other half, with and without faults, by FID. Features *rank* the ladder
if each fault makes the score of the same images worse by a tenth at least, and by more where it is stronger. Features
that do not are named, with the faults that they miss, wherever scores in them are shown.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from immiscible.couplings.axes import principal_axes
from immiscible.couplings.mixtures import fit_mixture
from immiscible.data.images import Images, evenly_spaced
from immiscible.evaluation.features import Features, embed
from immiscible.evaluation.scores import frechet_distance
from immiscible.io.files import write_json
from immiscible.io.records import Unfit, read_json

# To be raised with every change below that changes the scores.
RECIPE = 1
# Real images with and without a fault, and as many more to score them against.
HALF = 500
# By how much a fault must make a score worse: differences between halves of real images are not far below.
SEEN = 1.1
SEED = 0
# Principal components of the prior without a network, and the Gaussians of its mixture.
AXES = 32
PRIORS = {"a mixture of Gaussians": 20, "one Gaussian": 1}
COPIES = (100, 25)
# Patches of a smaller image are no parts of it any more.
LEAST_SIDE = 4
# All images together have at most this many values. Where they are so large that fewer than this are left, none are.
LARGEST, FEWEST = 2**24, 50

Facts = dict[str, Any]
Fault = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Rung:
    """One fault at its strengths, from weak to strong.

    Attributes:
        fault: What is wrong with the images.
        strengths: How strong it is, in words.
        scores: The FID at each strength.
    """

    fault: str
    strengths: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Ladder:
    """How features score known faults.

    Attributes:
        features: The name of the features.
        images: How many images each score is of, and is against.
        real: The FID of the same images without faults.
        rungs: The faults.
    """

    features: str
    images: int
    real: float
    rungs: tuple[Rung, ...]

    @property
    def missed(self) -> list[str]:
        """What the features do not see or rank, a phrase for each fault; nothing where they rank the ladder."""
        found = []
        for rung in self.rungs:
            unseen = [word for word, score in zip(rung.strengths, rung.scores, strict=True) if score < SEEN * self.real]
            if unseen:
                found.append(f"{rung.fault} ({', '.join(unseen)}) scores as real images do")
            elif list(rung.scores) != sorted(set(rung.scores)):
                found.append(f"{rung.fault} scores no worse where it is stronger")
        return found

    @property
    def verdict(self) -> str:
        """Whether the features are fit to tell what is worse, in one sentence."""
        if self.missed:
            return (
                f"The features are unfit to tell what is worse, by a ladder of known faults: {'; '.join(self.missed)}."
            )
        return (
            "The features rank a ladder of known faults: each scores worse than real images, and more so if stronger."
        )

    def as_dict(self) -> Facts:
        """What a summary keeps of it, as JSON values."""
        return {**json.loads(json.dumps(asdict(self))), "missed": self.missed, "verdict": self.verdict}


def faults_seen(features: Features, data: Images, samples: int, cache: Path) -> Facts:
    """How some features score known faults: as it is kept, or else measured, and kept from then on.

    Arguments:
        features: The features.
        data: The real images.
        samples: How many images are scored in them. What is said of few tells little anyway.
        cache: The directory where ladders are kept.

    Returns:
        The fields of a :class:`Ladder`, ``missed``, and the ``verdict``. Where there are too few images, or they are
        too small or too large, there are no ``rungs`` and the verdict says that none were measured.
    """
    half = min(HALF, LARGEST // math.prod(data.shape))
    if samples < HALF or len(data) < 2 * half or half < FEWEST or min(data.shape[1:]) < LEAST_SIDE:
        said = (
            f"The ladder of known faults was not run: it needs {HALF} samples, and {2 * HALF:,} images of usual size."
        )
        return {"rungs": [], "missed": [], "verdict": said}
    key = f"{RECIPE} {features.name} {data.fingerprint()}"
    path = cache / f"ladder-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    found = _restore(path)
    if found is None:
        found = measure(features, data, half)
        with contextlib.suppress(OSError):
            write_json(path, asdict(found))
    return found.as_dict()


def measure(features: Features, data: Images, half: int = HALF) -> Ladder:
    """Scores known faults in some features.

    Arguments:
        features: The features.
        data: The real images, of at least four pixels a side.
        half: How many of them are given faults; as many more are what these are scored against.
    """
    generator = torch.Generator().manual_seed(SEED)
    images = data.batch(evenly_spaced(len(data), 2 * half))[0]
    values = embed(features, images).double()
    # Neighbours are alike in many data sets: every other one is in the same half.
    real, against = values[::2], values[1::2]

    def scored(faulty: Tensor) -> float:
        return frechet_distance(embed(features, faulty).double(), against)

    rungs = [
        Rung(name, tuple(faults), tuple(scored(fault(images[::2], generator)) for fault in faults.values()))
        for name, faults in faults_of(images).items()
    ]
    # Copies have the features of what they are copies of.
    copies = [frechet_distance(_copies(real, number), against) for number in COPIES]
    rungs.append(Rung("copies", tuple(f"of {number} images" for number in COPIES), tuple(copies)))
    return Ladder(features.name, half, frechet_distance(real, against), tuple(rungs))


def faults_of(images: Tensor) -> dict[str, dict[str, Fault]]:
    """The faults that change images, by name and strength.

    Arguments:
        images: Real images in [-1, 1], with shape (N, C, H, W).
    """
    width = max(0.5, min(images.shape[-2:]) / 32)
    return {
        "blur": {f"of {sigma:g} pixels": _blur(sigma) for sigma in (width, 2 * width)},
        "noise": {f"of {std}": _noise(std) for std in (0.1, 0.3)},
        "shuffled patches": {f"{parts} x {parts}": _shuffle(parts) for parts in (2, 4)},
        "a prior without a network": {said: _prior(images, components) for said, components in PRIORS.items()},
    }


def _blur(sigma: float) -> Fault:
    def blurred(images: Tensor, generator: torch.Generator) -> Tensor:
        reach = math.ceil(3 * sigma)
        weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
        kernel = (weights / weights.sum()).expand(images.shape[1], 1, 1, -1)
        padded = F.pad(images, (reach,) * 4, mode="replicate")
        rows = F.conv2d(padded, kernel, groups=images.shape[1])
        return F.conv2d(rows, kernel.mT, groups=images.shape[1])

    return blurred


def _noise(std: float) -> Fault:
    return lambda images, generator: images + std * torch.randn(images.shape, generator=generator)


def _shuffle(parts: int) -> Fault:
    """Cuts images into parts x parts patches, and has them change places; what does not divide stays where it is."""

    def shuffled(images: Tensor, generator: torch.Generator) -> Tensor:
        count, channels, height, width = images.shape
        high, wide = height // parts, width // parts
        inner = images[..., : parts * high, : parts * wide].reshape(count, channels, parts, high, parts, wide)
        patches = inner.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
        order = torch.rand(count, parts * parts, generator=generator).argsort(1)
        moved = patches[torch.arange(count)[:, None], order].unflatten(1, (parts, parts)).permute(0, 3, 1, 4, 2, 5)
        result = images.clone()
        result[..., : parts * high, : parts * wide] = moved.reshape(count, channels, parts * high, parts * wide)
        return result

    return shuffled


def _prior(data: Tensor, components: int) -> Fault:
    """Draws from a mixture of Gaussians over the leading principal components of the data."""

    def drawn(images: Tensor, generator: torch.Generator) -> Tensor:
        points = data.flatten(1).double()
        mean, axes, _ = principal_axes(points, AXES)
        mixture = fit_mixture((points - mean) @ axes, components=components, seed=SEED)
        normal = torch.randn(len(images), axes.shape[1], generator=generator)
        kinds = torch.zeros(len(images), dtype=torch.int64)
        codes = mixture.draw(normal, torch.rand(len(images), generator=generator), kinds)
        return (mean + codes.double() @ axes.T).view(images.shape).float()

    return drawn


def _copies(values: Tensor, number: int) -> Tensor:
    """As many rows, of that many of them only."""
    return values[evenly_spaced(len(values), number)].repeat(-(-len(values) // number), 1)[: len(values)]


def _restore(path: Path) -> Ladder | None:
    """A ladder as it was kept; None if there is none, or its file was altered."""
    try:
        saved = read_json(path)
        rungs = [Rung(rung["fault"], tuple(rung["strengths"]), tuple(rung["scores"])) for rung in saved["rungs"]]
        return Ladder(**{**saved, "rungs": tuple(rungs)})
    except (OSError, Unfit, KeyError, TypeError):
        return None
