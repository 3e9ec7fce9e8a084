r"""Mixture: data of a mode take noise of a mode of their own, and sampling starts from the mixture of these.

A mixture of :math:`K` Gaussians is fitted to the data along their leading principal components, centred and divided by
their standard deviations as in :mod:`immiscible.couplings.components`. A datum of mode :math:`k`, the one
whose density is largest there, takes

.. math:: n' = n + P^\top (u - P n), \qquad u = m_k + L_k P n,

with mean :math:`m_k` and covariance :math:`L_k L_k^\top` of its mode. Sampling starts from the mode :math:`k` as often
as data are of it. So a network has :math:`K` short ways to learn in place of one long one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from immiscible.couplings.classes import kinds_of
from immiscible.couplings.components import AT_MOST, MOST_AXES, RANK, FittedComponents
from immiscible.couplings.fitting import Loader, check_count, check_fitted, coded, with_part
from immiscible.couplings.protocol import check_inputs, eager, finite_norms, full_float32, note_unless_normal
from immiscible.couplings.source import LowRankMixture
from immiscible.errors import InputError

MOST_MODES = 2**10


@dataclass(frozen=True)
class Mixture:
    r"""Gives data of each mode noise of a mode of its own; fitted to data once.

    Source: mode coupling of MM-FM (CVPR 2026), along principal components.

    Samples start from :attr:`source`, not from :math:`N(0, I)`, and a sampler must not add noise on its way. The noise
    that is handed in must be standard normal.

    Arguments:
        count: How many modes, from 1; fewer where a class has few data.
        rank: Along how many principal components they lie, from 1; as many as the data have where that is fewer.
        fitted: The components and the modes, once :meth:`fit` has found them.

    Example:
        >>> x = torch.randn(500, 3, 4, 4)
        >>> mixture = Mixture(5, rank=4).fit(x)
        >>> noise = mixture(x[:4], torch.randn(4, 3, 4, 4))
        >>> start = mixture.source.sample((4, 3, 4, 4))
    """

    moves: ClassVar[str] = (
        "the part of each noise along a few principal components of the data: it becomes one of the mode of its datum."
    )
    law: ClassVar[str] = (
        "informed: along the components a mixture of Gaussians, one for each mode of the data, and N(0, I) elsewhere; "
        "sampling must start from its source."
    )
    cost: ClassVar[str] = (
        "O(B D r) for products with the components, and O(B K r^2) to find the modes; no state, no solver. A fit takes "
        "O(N D r) and a mixture along the components."
    )
    kept_as: ClassVar[str] = "modes"

    count: int
    rank: int = RANK
    fitted: FittedComponents | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_count(self.count, "count", MOST_MODES)
        check_count(self.rank, "rank", MOST_AXES)

    @torch.no_grad()
    def fit(self, data: Tensor | Loader, labels: Tensor | None = None, *, seed: int = 0) -> Mixture:
        r"""Finds the modes of some data.

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
        fitted = FittedComponents.fit(found, self.count, seed)
        points = (found.points + found.offset - fitted.offset) / fitted.scale
        law = fitted.law.counted(points, kinds_of(fitted.law.classes, len(points), found.labels, "modes"))
        return dataclasses.replace(self, fitted=dataclasses.replace(fitted, law=law))

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Mixture:
        """The same with modes that were kept, see :class:`~immiscible.couplings.fitting.Fittable`."""
        return dataclasses.replace(self, fitted=FittedComponents.of(tensors))

    @property
    def source(self) -> LowRankMixture:
        """The law of its noise, which sampling must start from.

        Raises:
            InputError: If it is not fitted.
        """
        if self.fitted is None:
            raise InputError(f"{self} must be fitted to data before it has a source: take what `fit(x)` gives.")
        return LowRankMixture.along(self.fitted.basis, self.fitted.law)

    @eager
    def __call__(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Couples, see :class:`~immiscible.couplings.protocol.Coupling`. Modes of classes need labels."""
        check_inputs(x, noise, labels, generator)
        found = check_fitted(self, self.fitted, x)
        kinds = kinds_of(found.law.classes, len(x), labels, "modes")
        with full_float32(x.device):
            norms = finite_norms(x, noise)[1]
            note_unless_normal(norms, noise.numel() // len(norms), str(self))
            own = found.along(noise)
            modes = found.law.likeliest(found.codes(x), kinds)
            return with_part(noise.detach(), found.basis, found.law.moved(own, kinds, modes) - own)

    def to(self, device: torch.device | str) -> Mixture:
        """The same on a device."""
        return self if self.fitted is None else dataclasses.replace(self, fitted=self.fitted.to(device))

    def __str__(self) -> str:
        return f"mixture:{self.count}:{self.rank}"
