"""Says in plain words what a coupling does, and draws and couples noise in one call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from immiscible.couplings.parsing import parse_coupling
from immiscible.couplings.protocol import Coupling, Wrapper, check_generator, check_plain, unwrap
from immiscible.errors import InputError

# What is said of what a coupling does not say.
UNDOCUMENTED = "not documented."


@dataclass(frozen=True)
class Description:
    """What a coupling moves, whether the law of the noise stays N(0, I), and what it costs."""

    name: str
    moves: str
    marginal: str
    cost: str

    def __str__(self) -> str:
        return f"{self.name}\n  moves     {self.moves}\n  marginal  {self.marginal}\n  cost      {self.cost}"


def describe(coupling: str | Coupling) -> Description:
    """Describes a coupling by what it says of itself in three attributes, ``moves``, ``law`` and ``cost``.

    Of a wrapper's coupling it says what that says, too. What is not a text is not documented.

    Arguments:
        coupling: A coupling or its spelling.

    Raises:
        InputError: If the spelling is unknown.

    Example:
        >>> describe("assignment").marginal
        'exact: the noises of a pool are the ones drawn, in another order.'
    """
    parsed = parse_coupling(coupling)
    said = [getattr(parsed, attribute, None) for attribute in ("moves", "law", "cost")]
    texts = [text if isinstance(text, str) else UNDOCUMENTED for text in said]
    if isinstance(parsed, Wrapper):
        inner = describe(parsed.inner)
        within = (inner.moves, inner.marginal, inner.cost)
        texts = [f"{text} Inner: {other}" for text, other in zip(texts, within, strict=True)]
    return Description(getattr(parsed, "__name__", str(parsed)), *texts)


def claims_exact(coupling: str | Coupling) -> bool:
    """Whether a coupling, and every wrapper around it, says that the noise stays exactly N(0, I).

    Arguments:
        coupling: A coupling or its spelling.
    """
    wrappers, inner = unwrap(parse_coupling(coupling))
    return all(str(getattr(part, "law", "")).startswith("exact") for part in (*wrappers, inner))


def noise_like(
    x: Tensor, coupling: str | Coupling, *, labels: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Draws standard normal noise for a batch and couples it.

    Arguments:
        x: The data, with shape (B, \\*).
        coupling: A coupling or its spelling.
        labels: The class of each datum, with shape (B,), see :class:`LinearAssignment`.
        generator: The source of all randomness, on the device of ``x``.

    Returns:
        The noise, with the shape, dtype and device of ``x``.

    Raises:
        InputError: If the spelling is unknown or the inputs do not fit together.

    Example:
        >>> noise = noise_like(torch.randn(4, 3, 8, 8), "knn:8")
    """
    if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_quantized):
        raise InputError(
            f"`x` must be a floating tensor, got {getattr(x, 'dtype', type(x).__name__)}: use `x.float()`."
        )
    check_plain(x, "x")
    if generator is not None:
        check_generator(generator, x.device)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return parse_coupling(coupling)(x, noise, labels=labels, generator=generator)
