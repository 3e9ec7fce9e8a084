"""Says in plain words what a coupling does, and draws and couples noise in one call."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from immiscible.couplings.mixed import Mixed
from immiscible.couplings.parsing import coupling as parse
from immiscible.couplings.protocol import Coupling, check_generator, check_plain
from immiscible.errors import InputError


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
    """Describes a coupling by the three lines that every coupling's docstring carries.

    Arguments:
        coupling: A coupling or its spelling.

    Raises:
        InputError: If the spelling is unknown.

    Example:
        >>> describe("assignment").marginal
        'exact: the noises of a pool are the ones drawn, in another order.'
    """
    parsed = parse(coupling)
    lines = _lines(parsed.__doc__)
    if isinstance(parsed, Mixed):
        inner = describe(parsed.coupling)
        lines = {name: f"{text} Inner: {getattr(inner, name)}" for name, text in lines.items()}
    name = getattr(parsed, "__name__", str(parsed))
    return Description(name, *(lines.get(line, "not documented.") for line in ("moves", "marginal", "cost")))


def _lines(docstring: str | None) -> dict[str, str]:
    """The fixed lines of a docstring by name, free of markup."""
    found = re.findall(r"\*(moves|marginal|cost)\*: (.*?)(?=\n\s*\*|\n\s*\n|\Z)", docstring or "", re.DOTALL)
    return {name: _plain(text) for name, text in found}


def _plain(text: str) -> str:
    text = re.sub(r"\\ :sup:`(\d)`", r"^\1", text)
    return " ".join(re.sub(r":math:|``|`", "", text).split())


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
    return parse(coupling)(x, noise, labels=labels, generator=generator)
