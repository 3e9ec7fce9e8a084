r"""Mixtures of Gaussians in a few dimensions, one for each class, and how they are fitted to data.

A mixture is a way to move normal noise: with a uniform number :math:`u` the component :math:`k` is the one whose part
of :math:`[0, 1)` holds it, parts as long as the weights, and

.. math:: z' = m_k + L_k z, \qquad z \sim N(0, I), \quad S_k = L_k L_k^\top .

So a sample depends on its own normal and uniform numbers only, and two mixtures that are given the same are paired.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from immiscible import seeds
from immiscible.couplings.classes import NO_CLASS
from immiscible.errors import InputError

COMPONENTS = 100
# A mixture is fitted to this many data at most, in this many steps, or until the mean logarithm of its density grows by
# less than this: more take longer and hardly change it.
MOST, STEPS, GAIN = 20_000, 30, 1e-2
# What is added to each variance, as a share of the mean one, so that no component collapses onto a few data.
LEAST_VARIANCE = 1e-4
# How many values are in memory at once where points are compared with components.
VALUES = 2**22


@dataclass(frozen=True, eq=False)
class Gaussians:
    """A mixture of Gaussians for each of some classes.

    Attributes:
        weights: The share of each component, with shape (C, K); zero beyond those that a class has.
        means: Their means, with shape (C, K, r).
        factors: Lower triangular factors of their covariances, with shape (C, K, r, r).
        classes: The labels of the classes in ascending order, with shape (C,); without labels a number that is none.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor
    classes: Tensor

    def __post_init__(self) -> None:
        count, rank = len(self.classes), self.means.shape[-1]
        expected = (count, self.weights.shape[-1], rank)
        fits = (
            count > 0
            and self.weights.shape == expected[:2]
            and self.means.shape == expected
            and self.factors.shape == (*expected, rank)
            and all(bool(value.isfinite().all()) for value in (self.weights, self.means, self.factors))
            and bool((self.weights >= 0).all() and (self.weights.sum(1) > 0).all())
        )
        if not fits:
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in self.tensors().items())
            raise InputError(
                "a mixture must have finite weights (C, K), means (C, K, r), factors (C, K, r, r) and classes (C,), "
                f"got {shapes}."
            )

    def to(self, device: torch.device | str) -> Gaussians:
        """The same on a device."""
        return Gaussians(**{name: value.to(device) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that it is made of, by name."""
        return {part.name: getattr(self, part.name).contiguous() for part in fields(self)}

    @torch.no_grad()
    def draw(self, normal: Tensor, uniform: Tensor, kinds: Tensor) -> Tensor:
        """Points of the mixture, ``float32`` with shape (B, r).

        Arguments:
            normal: Standard normal noise, with shape (B, r).
            uniform: A number in [0, 1) for each, which chooses the component, with shape (B,).
            kinds: The number of the class of each, with shape (B,).
        """
        return self.moved(normal, kinds, self._chosen(uniform, kinds))

    def moved(self, normal: Tensor, kinds: Tensor, components: Tensor) -> Tensor:
        """Normal noise with shape (B, r) as points of given components, with shape (B,), of the classes of each."""
        factors = self.factors[kinds, components]
        return self.means[kinds, components] + (factors @ normal.float()[:, :, None])[:, :, 0]

    def _chosen(self, uniform: Tensor, kinds: Tensor) -> Tensor:
        """The component that a uniform number stands for, with shape (B,)."""
        ends = self.weights.double().cumsum(1)
        # Beyond the last component of a class all ends are one, which no number reaches.
        ends = (ends / ends[:, -1:])[kinds]
        return (uniform.double()[:, None] >= ends).sum(1)

    @torch.no_grad()
    def likeliest(self, points: Tensor, kinds: Tensor) -> Tensor:
        """The component whose density is largest at each point with shape (B, r), among those of its class."""
        best = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        volumes = self.factors.diagonal(dim1=-2, dim2=-1).log().sum(2).masked_fill(self.weights == 0, torch.inf)
        for kind in kinds.unique().tolist():
            own = (kinds == kind).nonzero()[:, 0]
            for some in own.split(max(1, VALUES // self.means[kind].numel())):
                away = points[some].float()[None] - self.means[kind][:, None]
                whitened = torch.linalg.solve_triangular(self.factors[kind], away.mT, upper=False)
                best[some] = (whitened.square().sum(1) / 2 + volumes[kind][:, None]).argmin(0)
        return best

    def counted(self, points: Tensor, kinds: Tensor) -> Gaussians:
        """The same with the shares of the points that are likeliest of each component as weights."""
        classes, most = self.weights.shape
        held = torch.bincount(kinds * most + self.likeliest(points, kinds), minlength=classes * most)
        held = held.view(classes, most).float()
        return replace(self, weights=held / held.sum(1, keepdim=True))

    def diluted(self, strength: float) -> Gaussians:
        r"""The law of :math:`\rho z' + \sqrt{1 - \rho^2}\, n`, with :math:`z'` of this mixture and normal :math:`n`."""
        rest = (1 - strength**2) * torch.eye(self.means.shape[-1], device=self.means.device, dtype=torch.float64)
        factors = self.factors.double()
        factors = torch.linalg.cholesky(strength**2 * factors @ factors.mT + rest).float()
        return replace(self, means=strength * self.means, factors=factors)


def fit_mixture(codes: Tensor, labels: Tensor | None = None, components: int = COMPONENTS, seed: int = 0) -> Gaussians:
    """Fits a mixture of Gaussians with full covariances to data, by scikit-learn; one for each class.

    Arguments:
        codes: The data, with shape (N, r). At most 20,000 of them are looked at, chosen by the seed.
        labels: The class of each, with shape (N,), if there are classes.
        components: How many components at most. There are fewer where a class has not r + 1 data for each.
        seed: The seed of all that is random in it.

    Returns:
        The mixture, on the device of the data.

    Raises:
        InputError: If there are no data, they are not finite, or scikit-learn is not installed.
    """
    if codes.ndim != 2 or 0 in codes.shape or not bool(codes.isfinite().all()):
        raise InputError(f"`codes` must be finite with shape (N, r), got shape {tuple(codes.shape)}.")
    groups = torch.full((len(codes),), NO_CLASS) if labels is None else labels.long().cpu()
    points = codes.detach().double().cpu()
    if len(points) > MOST:
        chosen = torch.randperm(len(points), generator=seeds.generator("cpu", seed, "mixture data"))[:MOST]
        # Of each class something is left.
        classes, first = groups.unique(), groups[chosen].unique()
        lost = [int((groups == name).nonzero()[0]) for name in classes[~torch.isin(classes, first)].tolist()]
        chosen = torch.cat([chosen, torch.tensor(lost, dtype=torch.int64)])
        points, groups = points[chosen], groups[chosen]
    names = groups.unique()
    found = [_fitted(points[groups == name], components, seed) for name in names]
    most, rank = max(len(weights) for weights, _, _ in found), points.shape[1]
    weights = torch.zeros(len(names), most)
    means = torch.zeros(len(names), most, rank)
    factors = torch.eye(rank).repeat(len(names), most, 1, 1)
    for kind, (own, centres, covariances) in enumerate(found):
        weights[kind, : len(own)], means[kind, : len(own)] = own.float(), centres.float()
        factors[kind, : len(own)] = torch.linalg.cholesky(covariances).float()
    return Gaussians(weights, means, factors, names).to(codes.device)


def _fitted(points: Tensor, components: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and covariances of a mixture of some points, ``float64`` with shape (n, r)."""
    count, rank = points.shape
    floor = max(LEAST_VARIANCE * points.var(0, correction=0).mean().item(), 1e-12)
    components = max(1, min(components, count // (rank + 1)))
    if components == 1:
        away = points - points.mean(0)
        covariance = away.T @ away / count + floor * torch.eye(rank, dtype=torch.float64)
        return torch.ones(1), points.mean(0, keepdim=True), covariance[None]
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture
    except ImportError:
        raise InputError(
            "a mixture of several components needs scikit-learn, got none installed: `pip install scikit-learn`."
        ) from None
    state = seeds.derive(seed, "mixture") % 2**32
    mixture = GaussianMixture(components, tol=GAIN, reg_covar=floor, max_iter=STEPS, random_state=state)
    with warnings.catch_warnings():
        # It need not be the best of all mixtures, but one that the data may be drawn from.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(points.numpy())
    weights, means, covariances = map(torch.from_numpy, (mixture.weights_, mixture.means_, mixture.covariances_))
    return weights.double(), means.double(), covariances.double()
