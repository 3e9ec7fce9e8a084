"""Couples in some batches only: how much to couple is a dial."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from immiscible.couplings.distributed.ranks import check_first, ranks_of
from immiscible.couplings.protocol import Coupling, Independent, eager
from immiscible.couplings.source import is_informed
from immiscible.errors import InputError


@dataclass(frozen=True)
class Mixed:
    """Couples a batch with probability ``p`` and leaves it alone otherwise.

    Source: this package; measured in the results of the documentation.

    Arguments:
        coupling: The coupling to apply.
        p: The probability to apply it, in [0, 1].

    Example:
        >>> from immiscible import LinearAssignment
        >>> x = torch.randn(4, 8)
        >>> noise = Mixed(LinearAssignment(), 0.5)(x, torch.randn_like(x))
    """

    moves: ClassVar[str] = "in a share p of the batches, what the inner coupling moves."
    law: ClassVar[str] = "exact where the inner coupling's is, else p times its bias."
    cost: ClassVar[str] = "p times that of the inner coupling, on average."

    coupling: Coupling
    p: float

    def __post_init__(self) -> None:
        if not callable(self.coupling):
            raise InputError(f"`coupling` must be a coupling, got {self.coupling!r}: try `LinearAssignment()`.")
        if isinstance(self.p, bool) or not isinstance(self.p, int | float) or not 0 <= self.p <= 1:
            raise InputError(f"`p` must be a probability in [0, 1], got {self.p!r}.")
        if self.p < 1 and is_informed(self.coupling):
            raise InputError(
                f"`p` must be 1 for {self.coupling}, got {self.p}: its samples start from a law of its own, which the "
                "noise of a batch that is left alone does not have; lower its strength instead."
            )

    @property
    def inner(self) -> Coupling:
        """The coupling."""
        return self.coupling

    def with_inner(self, inner: Coupling) -> Mixed:
        """The same around another coupling."""
        return dataclasses.replace(self, coupling=inner)

    @eager
    def __call__(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Couples or not, see :class:`~immiscible.couplings.protocol.Coupling`. The generator draws the coin first."""
        check_first(self.coupling, x, noise, labels, generator)
        device = x.device if generator is not None else "cpu"
        coin = torch.rand((), generator=generator, device=device, dtype=torch.float32)
        # Ranks that share a pool must toss alike, or some would wait for the others for ever. By way of the CPU, since
        # they may differ in whether they give a generator.
        heads = ranks_of(self.coupling).from_first(coin.cpu()).item() < self.p
        if not heads and not len(x):
            return noise.detach()
        chosen = self.coupling if heads else Independent()
        return chosen(x, noise, labels=labels, generator=generator)

    def __str__(self) -> str:
        return f"{self.coupling}@{self.p}"
