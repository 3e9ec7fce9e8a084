r"""Scores of generated images against real ones: FID, KID, precision and recall.

All compare two sets of feature vectors, in float64:

- *FID* (Heusel et al., arXiv 1706.08500) fits a Gaussian to either set,
  :math:`|\mu_1 - \mu_2|^2 + \mathrm{tr}(\Sigma_1 + \Sigma_2 - 2 (\Sigma_1 \Sigma_2)^{1/2})`. The fewer images, the
  larger it is on average: compare it at equal numbers only.
- *KID* (Binkowski et al., arXiv 1801.01401) is the squared maximum mean discrepancy with a cubic kernel, without bias
  at any number of images, so it may fall below zero: the mean over 100 random subsets of at most 500 images.
- *precision* and *recall* (Kynkäänniemi et al., arXiv 1904.06991): around each image of a set lies a ball that reaches
  to its third-nearest neighbour in that set. Precision is the share of generated images that lie in a ball of a real
  one (they look real), recall the share of real images in a ball of a generated one (nothing is left out).

KID is torchmetrics'.

*How many images.* With fewer than four there are no third neighbours, and no scores. With fewer than 100 a single image
moves precision and recall by more than a hundredth, and KID is left to chance. With no more images than features the
covariances do not have full rank, and FID measures that more than anything else. :func:`doubts` says so.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from immiscible.data.images import Images, evenly_spaced
from immiscible.errors import InputError
from immiscible.evaluation.features import Features, embed
from immiscible.samplers.base import NotFinite

NEIGHBOURS = 3
KID_SUBSETS = 100
KID_SUBSET_SIZE = 500
SEED = 0
# Rows of a matrix of distances that are held at once.
CHUNK = 1024
# With fewer images no ball reaches to a third neighbour.
LEAST = NEIGHBOURS + 1
# With fewer images a single one moves precision and recall by more than a hundredth.
FEW = 100


@dataclass(frozen=True)
class Scores:
    """How close generated images are to real ones: less is better for ``fid`` and ``kid``, more for the other two."""

    fid: float
    kid: float
    precision: float
    recall: float

    def as_dict(self) -> dict[str, float]:
        """The scores by the names of their metrics, see :data:`immiscible.config.metric.IMAGE_METRICS`."""
        return asdict(self)


class Reference:
    """The features of real images, computed once, to score any number of generated sets against.

    Arguments:
        features: The features to compare in.
        data: The real images.
        limit: The most images that are used; of a larger set that many are taken, evenly spaced.
        batch_size: How many images are embedded at a time.

    Attributes:
        features: The features, with their name.
        shape: The shape (C, H, W) of an image.
        values: The features of the real images, ``float64`` with shape (M, dim).
        radii: The distance of each to its third-nearest neighbour, with shape (M,).

    Raises:
        InputError: If there are fewer than four images.
    """

    def __init__(self, features: Features, data: Images, *, limit: int = 10_000, batch_size: int = 128) -> None:
        if min(len(data), limit) < LEAST:
            raise InputError(f"scores need at least {LEAST} real images, got {min(len(data), limit)} of {data.name}.")
        self.features = features
        self.shape = data.shape
        index = evenly_spaced(len(data), limit)
        parts = [embed(features, data.batch(part)[0]) for part in index.split(batch_size)]
        self.values = torch.cat(parts).double()
        self.radii = neighbour_radii(self.values)

    def embed(self, generated: Tensor, *, batch_size: int = 128) -> Tensor:
        """The features of generated images, for :func:`score_features`.

        Arguments:
            generated: Generated images, with shape (N, C, H, W). Values outside [-1, 1] are clamped.
            batch_size: How many images are embedded at a time.

        Returns:
            The features, ``float64`` on the CPU with shape (N, dim).

        Raises:
            NotFinite: If not all values are finite.
            InputError: If the images have another shape than the real ones.
        """
        shape = tuple(generated.shape)
        if len(shape) != 4 or shape[1:] != self.shape or not generated.is_floating_point():
            raise InputError(
                f"generated images must be floats with shape (N, {', '.join(map(str, self.shape))}) as the real ones, "
                f"got {generated.dtype} with {shape}."
            )
        if not bool(generated.isfinite().all()):
            raise NotFinite(
                "generated images must be finite, got NaN or infinite values: the training may have diverged."
            )
        return embed(self.features, generated, batch_size=batch_size).double()

    def doubts(self, generated: int) -> str | None:
        """Why scores of that many generated images say little, or nothing, see :func:`doubts`."""
        return doubts(generated, len(self.values), self.values.shape[1])


def doubts(generated: int, real: int, dim: int) -> str | None:
    """Why scores of that many images say little, in one sentence; None where there are enough.

    Arguments:
        generated: The number of generated images.
        real: The number of real images.
        dim: The number of features.
    """
    fewest = min(generated, real)
    reasons = [f"fewer than {FEW} images leave KID, precision and recall to chance"] if fewest < FEW else []
    if fewest <= dim:
        reasons.append(f"FID needs more images than features, {dim:,}, and is far too large without")
    if not reasons:
        return None
    remedy = "draw more samples" if generated <= real else "score against more data"
    return (
        f"scores of {generated:,} generated images against {real:,} real ones say little: {'; '.join(reasons)}: "
        f"{remedy}."
    )


def check_count(generated: int) -> None:
    """Checks that there are enough generated images for a score.

    Raises:
        InputError: If there are fewer than four.
    """
    if generated < LEAST:
        raise InputError(f"scores need at least {LEAST} generated images, got {generated}: draw more samples.")


def score(generated: Tensor, reference: Reference, *, batch_size: int = 128) -> Scores:
    """Scores generated images against real ones. The same images always get the same scores.

    Arguments:
        generated: Generated images, with shape (N, C, H, W). Values outside [-1, 1] are clamped.
        reference: The real images' features.
        batch_size: How many images are embedded at a time.

    Raises:
        InputError: If there are fewer than four images, not all values are finite, or they have another shape.
    """
    values = reference.embed(generated, batch_size=batch_size)
    return score_features(values, reference)


def score_features(values: Tensor, reference: Reference) -> Scores:
    """Scores generated images by their features, which can be gathered while the images are drawn part by part.

    Arguments:
        values: The features of the generated images, from :meth:`Reference.embed`, with shape (N, dim).
        reference: The real images' features.

    Raises:
        InputError: If there are fewer than four images.
    """
    check_count(len(values))
    return Scores(
        fid=frechet_distance(values, reference.values),
        kid=kernel_distance(values, reference.values),
        precision=covered(values, reference.values, reference.radii),
        recall=covered(reference.values, values, neighbour_radii(values)),
    )


class _AsTheyAre(nn.Module):
    """What torchmetrics takes for the network: it is handed features, and passes them on."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, values: Tensor) -> Tensor:
        return values


def frechet_distance(generated: Tensor, real: Tensor) -> float:
    r"""FID of two sets of features, ``float64`` with shapes (N, dim) and (M, dim), each with at least two rows.

    With factors of the covariances, :math:`\Sigma_i = F_i^T F_i`, the trace of the root is the sum of the singular
    values of :math:`F_1 F_2^T`: exact where the covariances have no full rank, and faster than their eigenvalues.
    """
    means, factors = zip(*map(_moments, (generated, real)), strict=True)
    spreads = sum(factor.square().sum() for factor in factors)
    root = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    return max(0.0, float((means[0] - means[1]).square().sum() + spreads - 2 * root))


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of some features, and a factor of their covariance with no more rows than columns."""
    mean = values.mean(0)
    factor = (values - mean) / (len(values) - 1) ** 0.5
    return mean, torch.linalg.qr(factor, mode="r")[1] if len(factor) > factor.shape[1] else factor


def kernel_distance(generated: Tensor, real: Tensor) -> float:
    """KID of two sets of features, ``float64`` with shapes (N, dim) and (M, dim), each with at least two rows."""
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(len(generated), len(real), KID_SUBSET_SIZE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save all", UserWarning)
        metric = KernelInceptionDistance(
            _AsTheyAre(real.shape[1]), subsets=KID_SUBSETS, subset_size=size, sync_on_compute=False
        )
    metric.update(real, real=True)
    metric.update(generated, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        return metric.compute()[0].item()


def neighbour_radii(points: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """The distance of each point to its k-th nearest neighbour in the same set, itself not counted, with shape (N,)."""
    return torch.cat([torch.cdist(part, points).kthvalue(neighbours + 1).values for part in points.split(CHUNK)])


def covered(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    """The share of points that lie in any of some balls.

    Arguments:
        points: The points, with shape (N, dim).
        centres: The centres of the balls, with shape (M, dim).
        radii: Their radii, with shape (M,).
    """
    inside = [(torch.cdist(part, centres) <= radii).any(1) for part in points.split(CHUNK)]
    return torch.cat(inside).double().mean().item()
