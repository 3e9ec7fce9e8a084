"""What a coupling did, as a permutation, for a second label or a mask that belongs to the noise and must follow it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from immiscible.couplings.assignment import LinearAssignment
from immiscible.couplings.mixed import Mixed
from immiscible.couplings.parsing import coupling as parse
from immiscible.couplings.protocol import Coupling, Independent
from immiscible.couplings.spaces import InSpace
from immiscible.errors import InputError


def permutation(
    coupling: str | Coupling,
    x: Tensor,
    noise: Tensor,
    *,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Couples, and says which noise each datum takes instead of handing it out.

    ``noise[permutation(coupling, x, noise)]`` is ``coupling(x, noise)``, given the same labels and a generator in
    the same state. Whatever else belongs to the noise is brought along by the same index.

    Arguments:
        coupling: A coupling that permutes whole noises, or its spelling: an assignment, alone or within
            :class:`Mixed` or a full :class:`InSpace`, or :class:`Independent`.
        x: The data, with shape (B, \\*).
        noise: Standard normal noise, with the shape of ``x``, on its device.
        labels: The class of each datum, with shape (B,), see :class:`LinearAssignment`.
        generator: The source of all randomness, on the device of ``x``.

    Returns:
        The place of the noise of each datum, ``int64`` with shape (B,), on the device of ``noise``.

    Raises:
        InputError: If the coupling does not permute, or gives noise of other ranks, or the inputs do not fit together.

    Example:
        >>> x, noise, seed = torch.randn(4, 8), torch.randn(4, 8), torch.arange(4)
        >>> index = permutation("assignment", x, noise)
        >>> noise, seed = noise[index], seed[index]
    """
    taken: list[Tensor] = []
    followed = _followed(parse(coupling), taken)
    followed(x, noise, labels=labels, generator=generator)
    # A coin of `Mixed` may have left everything in its place.
    return taken[0] if taken else torch.arange(len(noise), device=noise.device)


@dataclass(frozen=True)
class _Followed:
    """An assignment that notes the order it solved for, wherever it stands within other couplings."""

    coupling: LinearAssignment
    taken: list[Tensor]

    def __call__(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        self.taken.append(self.coupling.order(x, noise, labels=labels, generator=generator).to(noise.device))
        return noise


def _followed(coupling: Coupling, taken: list[Tensor]) -> Coupling:
    """The same coupling around an assignment that notes its order."""
    match coupling:
        case Independent():
            return coupling
        case LinearAssignment():
            if coupling.ranks().size > 1:
                raise InputError(
                    "a permutation must be one of the noise handed in, got an assignment that gives noise of other "
                    'ranks: take pool="batch".'
                )
            return _Followed(coupling, taken)
        case Mixed():
            return dataclasses.replace(coupling, coupling=_followed(coupling.coupling, taken))
        case InSpace() if not coupling.space.is_coarse:
            return dataclasses.replace(coupling, coupling=_followed(coupling.coupling, taken))
    raise InputError(
        f"a permutation must be of a coupling that moves whole noises, got {getattr(coupling, '__name__', coupling)}, "
        "which changes them: take an assignment, in the space of the data."
    )
