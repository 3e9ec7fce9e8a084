r"""The law that sampling starts from. It must be the one that the noise has in training.

Most couplings leave the noise :math:`N(0, I)` over the data, so samples start from :class:`Normal`. But the law of the
noise need not be normal if it can be sampled: an *informed* coupling makes noise that resembles the data along a few
components, and brings its own source. All that is needed are a few numbers more:

.. math:: n' = m + \sigma (n - P^\top P n) + P^\top u, \qquad u = m_k + L_k P n,

with orthonormal rows of :math:`P`, and a component :math:`k` of a Gaussian mixture that a uniform number chooses
(:mod:`immiscible.couplings.mixtures`). A start is a function of a normal and of a uniform number: two contenders that
are given the same start from noises that are paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from immiscible.couplings.axes import check_orthonormal
from immiscible.couplings.classes import kinds_of
from immiscible.couplings.mixtures import Gaussians
from immiscible.couplings.protocol import Coupling, check_labels, check_plain, full_float32, rows, unwrap
from immiscible.errors import InputError

Device = torch.device | str


@runtime_checkable
class Source(Protocol):
    """A law of noise that can be drawn from."""

    def of(self, noise: Tensor, uniform: Tensor, *, labels: Tensor | None = None) -> Tensor:
        r"""Turns standard normal noise into noise of this law.

        Arguments:
            noise: Standard normal noise, with shape (B, \*).
            uniform: A number in [0, 1) for each, with shape (B,).
            labels: The class of each, with shape (B,), where the law is one of each class.

        Returns:
            The noise, with the shape, dtype and device of ``noise``.

        Raises:
            InputError: If the inputs do not fit together, or not the law.
        """
        ...

    def sample(
        self,
        shape: tuple[int, ...],
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: Device | None = None,
    ) -> Tensor:
        """Draws noise of this law.

        Arguments:
            shape: The shape of the noise, (B, ...).
            labels: The class of each, with shape (B,), where the law is one of each class.
            generator: The source of randomness. The global one by default.
            device: Where to draw; by default where the generator is, or else the law.
        """
        ...

    def to(self, device: Device) -> Source:
        """The same on a device."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that it is made of, by name, see :func:`source_from`."""
        ...


@dataclass(frozen=True)
class Normal:
    """The law :math:`N(0, I)`.

    Example:
        >>> Normal().sample((4, 1, 8, 8)).shape
        torch.Size([4, 1, 8, 8])
    """

    def of(self, noise: Tensor, uniform: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Leaves the noise as it is, see :class:`Source`."""
        return noise

    def sample(
        self,
        shape: tuple[int, ...],
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: Device | None = None,
    ) -> Tensor:
        """Draws normal noise, see :class:`Source`."""
        where = device if device is not None else generator.device if generator is not None else None
        return torch.randn(shape, generator=generator, device=where)

    def to(self, device: Device) -> Normal:
        """The same: it has no tensors."""
        return self

    def tensors(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def __str__(self) -> str:
        return "N(0, I)"


# The law that samples start from unless there is another.
NORMAL = Normal()


@dataclass(frozen=True, eq=False)
class LowRankMixture:
    """Noise that is a Gaussian mixture along a few components, and normal elsewhere.

    Arguments:
        basis: The components as orthonormal rows, with shape (r, D).
        offset: What is added to all, with shape (D,).
        mixture: The law along the components, with one mixture for all or one for each class.
        rest: The standard deviation elsewhere, a tensor of one number.

    Raises:
        InputError: If they do not fit together.
    """

    basis: Tensor
    offset: Tensor
    mixture: Gaussians
    rest: Tensor

    def __post_init__(self) -> None:
        check_orthonormal(self.basis)
        rank, dims = self.basis.shape
        if self.offset.shape != (dims,) or self.mixture.means.shape[-1] != rank or self.rest.shape != ():
            raise InputError(
                f"a mixture along {rank} components of {dims} values must have an offset of as many values and means "
                f"of {rank}, got {tuple(self.offset.shape)} and {tuple(self.mixture.means.shape)}."
            )

    @staticmethod
    def along(basis: Tensor, mixture: Gaussians, rest: float = 1.0) -> LowRankMixture:
        """A mixture along components that adds nothing elsewhere."""
        return LowRankMixture(basis, basis.new_zeros(basis.shape[1]), mixture, basis.new_tensor(rest))

    @torch.no_grad()
    def of(self, noise: Tensor, uniform: Tensor, *, labels: Tensor | None = None) -> Tensor:
        """Changes the part of the noise along the components, see :class:`Source`."""
        self._check(noise, uniform, labels)
        wide = torch.promote_types(noise.dtype, torch.float32)
        basis, normal, rest = self.basis.to(wide), rows(noise).to(wide), self.rest.to(wide)
        with full_float32(noise.device):
            along = normal @ basis.T
            chosen = self.mixture.draw(along, uniform, self.kinds(len(noise), labels)).to(wide)
            changed = torch.addmm(rest * normal, chosen - rest * along, basis) + self.offset.to(wide)
        return changed.to(noise.dtype).view(noise.shape)

    def kinds(self, count: int, labels: Tensor | None) -> Tensor:
        """The number of the class of each of that many samples, see :func:`~immiscible.couplings.classes.kinds_of`."""
        return kinds_of(self.mixture.classes, count, labels, "sources")

    def sample(
        self,
        shape: tuple[int, ...],
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: Device | None = None,
    ) -> Tensor:
        """Draws noise, see :class:`Source`."""
        where = device if device is not None else generator.device if generator is not None else self.basis.device
        noise = torch.randn(shape, generator=generator, device=where)
        uniform = torch.rand(shape[:1], generator=generator, device=where, dtype=torch.float64)
        return self.to(where).of(noise, uniform, labels=None if labels is None else labels.to(where))

    def to(self, device: Device) -> LowRankMixture:
        """The same on a device."""
        offset, rest = self.offset.to(device), self.rest.to(device)
        return LowRankMixture(self.basis.to(device), offset, self.mixture.to(device), rest)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that it is made of, by name."""
        return {"basis": self.basis, "offset": self.offset, "rest": self.rest} | self.mixture.tensors()

    def _check(self, noise: Tensor, uniform: Tensor, labels: Tensor | None) -> None:
        check_plain(noise, "noise")
        if not noise.ndim or not len(noise) or noise[0].numel() != self.basis.shape[1]:
            raise InputError(
                f"a source of noises with {self.basis.shape[1]} values must be given such noise, got shape "
                f"{tuple(noise.shape)}."
            )
        if uniform.shape != noise.shape[:1]:
            raise InputError(f"`uniform` must have shape ({len(noise)},), one per noise, got {tuple(uniform.shape)}.")
        if noise.device != self.basis.device:
            raise InputError(
                f"`noise` must be on the device of the source, {self.basis.device}, got {noise.device}: use "
                f'`source.to("{noise.device}")`.'
            )
        if labels is not None:
            check_labels(labels, len(noise))

    def __str__(self) -> str:
        count, classes = int((self.mixture.weights > 0).sum(1).max()), len(self.mixture.classes)
        of_each = " of each class" if classes > 1 else ""
        kind = f"a mixture of {count} Gaussians" if count > 1 else "a Gaussian"
        return f"{kind}{of_each} along {len(self.basis)} components"


def source_from(tensors: Mapping[str, Tensor]) -> Source:
    """A law that was kept as its tensors, see :meth:`Source.tensors`.

    Raises:
        InputError: If they are not those of a law.
    """
    if not tensors:
        return NORMAL
    parts = dict(tensors)
    names = ("weights", "means", "factors", "classes")
    expected = {"basis", "offset", "rest", *names}
    if parts.keys() != expected:
        raise InputError(f"a source must be made of {', '.join(sorted(expected))}, got {', '.join(sorted(parts))}.")
    mixture = Gaussians(**{name: parts.pop(name) for name in names})
    return LowRankMixture(mixture=mixture, **parts)


def is_informed(coupling: Coupling) -> bool:
    """Whether a coupling, or what is within its wrappers, has a source of its own."""
    return hasattr(type(unwrap(coupling)[1]), "source")


def source_of(coupling: Coupling) -> Source:
    """The law that sampling starts from after training with a coupling: its own source, or else N(0, I).

    Arguments:
        coupling: The coupling, fitted if it is one that is fitted.

    Raises:
        InputError: If it is not fitted, or an informed one within a coarse space.
    """
    wrappers, inner = unwrap(coupling)
    if not is_informed(inner):
        return NORMAL
    for wrapper in wrappers:
        if getattr(getattr(wrapper, "space", None), "is_coarse", False):
            raise InputError(
                f"{inner} must rank in a space that is not coarse, such as centered: it takes the leading components "
                "of the data by itself."
            )
    return cast(Any, inner).source
