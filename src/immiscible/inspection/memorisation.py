r"""Whether samples are new: their nearest neighbours among the training images and among held-out ones.

*The rule of copies.* A sample is a copy if its nearest training image lies at less than a third of the distance of the
second nearest (arXiv 2310.02664 takes that rule from Yoon et al., 2023), by pixels; images that occur more than once
count once. Held-out images by the same rule are the floor.

*Training against held-out.* Each sample is compared with as many training images as there are held-out ones, since a
nearest neighbour among more is nearer. A model that has learnt the law and nothing else is nearer to the training in
half of the cases.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from immiscible.couplings.protocol import rows
from immiscible.data import Images
from immiscible.data.images import evenly_spaced
from immiscible.inspection.neighbours import Neighbours, distinct

COPY = 1 / 3
# Of larger sets that many images are taken, evenly spaced.
LIMIT = 60_000


@dataclass(frozen=True)
class Memorisation:
    """How close samples come to the training data. Distances are root mean squares per value.

    Attributes:
        samples: How many samples.
        copies: The share of samples that are copies.
        nearest: The mean distance to the nearest training image, of all.
        held_out: How many held-out images; 0 for none, and what follows is None then.
        copies_floor: The share of held-out images that would be copies.
        nearest_training: The mean distance to the nearest of as many training images as are held out.
        nearest_held_out: The mean distance to the nearest held-out image.
        nearer: The share of samples nearer to those training images.
        nearer_error: Its standard error.
    """

    samples: int
    copies: float
    nearest: float
    held_out: int = 0
    copies_floor: float | None = None
    nearest_training: float | None = None
    nearest_held_out: float | None = None
    nearer: float | None = None
    nearer_error: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self)


def pixels_of(data: Images) -> Tensor:
    """The images that neighbours are looked for among, a row each."""
    return rows(data.batch(evenly_spaced(len(data), LIMIT))[0])


def memorisation(samples: Tensor, training: Tensor, held_out: Tensor | None = None) -> Memorisation:
    """Compares samples with the data that a model was trained on, and with data that it was not.

    Arguments:
        samples: The samples in [-1, 1], with shape (N, C, H, W). As when they are saved, what lies outside is clipped.
        training: The training images, a row each.
        held_out: Images of the same kind, a row each.
    """
    points = rows(samples.clamp(-1, 1)).float()
    known, size = Neighbours(distinct(training)), math.sqrt(points.shape[1])
    distances, _ = known.nearest(points, 2)
    copies, nearest = _copies(distances), distances[:, 0].mean().item() / size
    if held_out is None:
        return Memorisation(len(points), copies, nearest)
    unseen = held_out[evenly_spaced(len(held_out), len(training))]
    fewer = Neighbours(training[evenly_spaced(len(training), len(unseen))])
    seen_at, unseen_at = (found.nearest(points)[0][:, 0] for found in (fewer, Neighbours(unseen)))
    nearer = ((seen_at < unseen_at).double() + (seen_at == unseen_at).double() / 2).mean().item()
    return Memorisation(
        len(points),
        copies,
        nearest,
        held_out=len(unseen),
        copies_floor=_copies(known.nearest(unseen, 2)[0]),
        nearest_training=seen_at.mean().item() / size,
        nearest_held_out=unseen_at.mean().item() / size,
        nearer=nearer,
        nearer_error=math.sqrt(nearer * (1 - nearer) / len(points)),
    )


def _copies(distances: Tensor) -> float:
    """The share of copies by the distances of the two nearest, with shape (B, 2); of a single image all are copies."""
    if distances.shape[1] < 2:
        return 1.0
    return (distances[:, 0] < COPY * distances[:, 1]).double().mean().item()
