r"""Components: along a few principal components the noise resembles its datum, and sampling starts from such noise.

Let :math:`y = (P x - c) / s` be the data along their :math:`r` leading principal components :math:`P`, centred and
divided by their standard deviations. Each noise takes a share of the :math:`y` of its datum,

.. math:: n' = n + P^\top (u - P n), \qquad u = \rho\, y + \sqrt{1 - \rho^2}\, P n,

so that mean and covariance of :math:`u` over the data are those of normal noise, and its law is that of the data,
blurred. It is not normal, and need not be: a Gaussian mixture fitted to :math:`y` says what it is, and sampling starts
from noise with that law along :math:`P` and :math:`N(0, I)` elsewhere (:mod:`immiscible.couplings.source`). The
strength :math:`\rho` is a dial from vanilla (0) to noise that holds all of :math:`y` (1).

With labels there is a mixture for each class. Where the condition is a continuous one the law would be another for
each condition, so this is for data without conditions and for classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from immiscible.couplings.fitting import Coded, Loader, check_count, check_fitted, coded, with_part
from immiscible.couplings.mixtures import COMPONENTS, Gaussians, fit_mixture
from immiscible.couplings.protocol import check_inputs, eager, finite_norms, full_float32, note_unless_normal, rows
from immiscible.couplings.source import LowRankMixture
from immiscible.errors import InputError

RANK, MOST_AXES = 16, 2**12
# No more data than these are looked at.
AT_MOST = 2**18


@dataclass(frozen=True, eq=False)
class FittedComponents:
    """Leading principal components of data, and the law of the data along them.

    Attributes:
        basis: The components as orthonormal rows, with shape (r, D).
        offset: The mean of the data in them, with shape (r,).
        scale: Their standard deviation in them, positive, with shape (r,).
        law: The law of the data in them, centred and divided by that.
    """

    basis: Tensor
    offset: Tensor
    scale: Tensor
    law: Gaussians

    @staticmethod
    def fit(data: Coded, count: int, seed: int) -> FittedComponents:
        """Finds the law of data along their components.

        Arguments:
            data: The data along them.
            count: How many Gaussians the law is a mixture of, at most.
            seed: The seed of all that is random in it.
        """
        mean, scale = data.points.mean(0), data.points.std(0, correction=0)
        scale = scale.masked_fill(scale == 0, 1)
        law = fit_mixture((data.points - mean) / scale, data.labels, count, seed)
        return FittedComponents(data.basis, data.offset + mean, scale, law)

    def to(self, device: torch.device | str) -> FittedComponents:
        """The same on a device."""
        return FittedComponents.of({name: value.to(device) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that they are made of, by name."""
        return {"basis": self.basis, "offset": self.offset, "scale": self.scale} | self.law.tensors()

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> FittedComponents:
        """Components that were kept as :meth:`tensors`."""
        parts = dict(tensors)
        own = {name: parts.pop(name) for name in ("basis", "offset", "scale")}
        return FittedComponents(**own, law=Gaussians(**parts))

    def said(self) -> str:
        """What they are, in one line."""
        count, classes = int((self.law.weights > 0).sum(1).max()), len(self.law.classes)
        each = f"in each of {classes} classes at most " if classes > 1 else ""
        return f"along {len(self.basis)} principal components the data are {each}a mixture of {count} Gaussians."

    def codes(self, x: Tensor) -> Tensor:
        """Data along the components, centred and divided by their standard deviation, with shape (B, r)."""
        return (rows(x).float() @ self.basis.T - self.offset) / self.scale

    def along(self, noise: Tensor) -> Tensor:
        """Noise along the components, with shape (B, r)."""
        return rows(noise).float() @ self.basis.T


@dataclass(frozen=True)
class Components:
    r"""Gives each noise a share of its datum along a few principal components; fitted to data once.

    Source: this package.

    Samples start from :attr:`source`, not from :math:`N(0, I)`, and a sampler must not add noise on its way. The noise
    that is handed in must be standard normal.

    Arguments:
        rank: Along how many principal components, from 1; as many as the data have where that is fewer.
        strength: The correlation of noise and datum along them, in [0, 1].
        fitted: The components, once :meth:`fit` has found them.

    Example:
        >>> x = torch.randn(500, 3, 4, 4)
        >>> components = Components(4, strength=0.8).fit(x)
        >>> noise = components(x[:4], torch.randn(4, 3, 4, 4))
        >>> start = components.source.sample((4, 3, 4, 4))
    """

    moves: ClassVar[str] = (
        "the part of each noise along a few principal components of the data: towards the part of its datum, centred "
        "and divided by its standard deviation."
    )
    law: ClassVar[str] = (
        "informed: along the components that of the data, blurred, with the mean and covariance of N(0, I), which it "
        "is elsewhere; sampling must start from its source."
    )
    cost: ClassVar[str] = (
        "O(B D r) for products with the components; no state, no solver. A fit takes O(N D r) and a mixture along "
        "the components."
    )
    kept_as: ClassVar[str] = "components"

    rank: int = RANK
    strength: float = 0.8
    fitted: FittedComponents | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_count(self.rank, "rank", MOST_AXES)
        number = isinstance(self.strength, int | float) and not isinstance(self.strength, bool)
        if not number or not 0 <= self.strength <= 1:
            raise InputError(f"`strength` must be a correlation in [0, 1], got {self.strength!r}.")

    @torch.no_grad()
    def fit(self, data: Tensor | Loader, labels: Tensor | None = None, *, seed: int = 0) -> Components:
        r"""Finds the components of some data, and their law along them.

        Arguments:
            data: The data, with shape (N, \*); or a shuffled loader of batches, of which a sample is looked at once.
                A batch is data, or a pair of data and labels.
            labels: The class of each datum of a tensor, with shape (N,), where samples are drawn by class.
            seed: The seed of all that is random in it.

        Returns:
            The same coupling, fitted.

        Raises:
            InputError: If there are no data, they are not finite, or scikit-learn is not installed.
        """
        found = coded(data, labels, self.rank, AT_MOST, seed)
        return dataclasses.replace(self, fitted=FittedComponents.fit(found, COMPONENTS, seed))

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Components:
        """The same with components that were kept, see :class:`~immiscible.couplings.fitting.Fittable`."""
        return dataclasses.replace(self, fitted=FittedComponents.of(tensors))

    @property
    def source(self) -> LowRankMixture:
        """The law of its noise, which sampling must start from.

        Raises:
            InputError: If it is not fitted.
        """
        if self.fitted is None:
            raise InputError(f"{self} must be fitted to data before it has a source: take what `fit(x)` gives.")
        return LowRankMixture.along(self.fitted.basis, self.fitted.law.diluted(self.strength))

    @eager
    def __call__(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Couples, see :class:`~immiscible.couplings.protocol.Coupling`. Labels are checked and ignored."""
        check_inputs(x, noise, labels, generator)
        found = check_fitted(self, self.fitted, x)
        with full_float32(x.device):
            norms = finite_norms(x, noise)[1]
            note_unless_normal(norms, noise.numel() // len(norms), str(self))
            own = found.along(noise)
            chosen = self.strength * found.codes(x) + (1 - self.strength**2) ** 0.5 * own
            return with_part(noise.detach(), found.basis, chosen - own)

    def to(self, device: torch.device | str) -> Components:
        """The same on a device."""
        return self if self.fitted is None else dataclasses.replace(self, fitted=self.fitted.to(device))

    def __str__(self) -> str:
        return f"components:{self.rank}:{self.strength}"
