"""What a coupling did, as a permutation, for a second label or a mask that belongs to the noise and must follow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from immiscible.couplings.distributed.ranks import ranks_of
from immiscible.couplings.parsing import parse_coupling
from immiscible.couplings.protocol import Coupling, Independent, Permuting, unwrap, wrap
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
        coupling: A coupling that permutes whole noises, or its spelling: an assignment, or whatever else has a method
            ``order``, alone or within :class:`Mixed` or a full :class:`InSpace`; or :class:`Independent`.
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
    parsed = parse_coupling(coupling)
    wrappers, inner = unwrap(parsed)
    taken: list[Tensor] = []
    for wrapper in wrappers:
        space = getattr(wrapper, "space", None)
        if space is not None and space.is_coarse:
            raise _changing(inner)
    if not isinstance(inner, Independent):
        parsed = wrap(wrappers, _followed(inner, taken))
    kept = parsed(x, noise, labels=labels, generator=generator)
    # A coin may have left everything in its place. What wraps may do nothing else to the noise.
    if len(taken) > 1 or not kept.equal(noise):
        raise _changing(coupling)
    return taken[0] if taken else torch.arange(len(noise), device=noise.device)


@dataclass(frozen=True)
class _Followed:
    """A coupling that notes the order it solved for and leaves the noise in its place, wherever it stands in others."""

    coupling: Permuting
    taken: list[Tensor]

    def __call__(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        self.taken.append(self.order(x, noise, labels=labels, generator=generator).to(noise.device))
        return noise

    def order(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """That of the coupling."""
        return self.coupling.order(x, noise, labels=labels, generator=generator)


def _followed(coupling: Coupling, taken: list[Tensor]) -> Coupling:
    if not isinstance(coupling, Permuting):
        raise _changing(coupling)
    if ranks_of(coupling).size > 1:
        raise InputError(
            "a permutation must be one of the noise handed in, got an assignment that gives noise of other "
            'ranks: take pool="batch".'
        )
    return _Followed(coupling, taken)


def _changing(coupling: Any) -> InputError:
    return InputError(
        f"a permutation must be of a coupling that moves whole noises, got {getattr(coupling, '__name__', coupling)}, "
        "which changes them: take an assignment, in the space of the data."
    )
