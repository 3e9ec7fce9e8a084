"""What every measurement here begins with: some data, and the noise that a coupling pairs them with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from immiscible.couplings import Coupling
from immiscible.couplings.spaces import given
from immiscible.errors import InputError
from immiscible.seeds import generator

# Data in memory, or mapped from a file: only what is measured on is read.
Data = Tensor | NDArray[Any]
# Called with how much is done, and of how much.
Progress = Callable[[int, int], None]


class Pairs(NamedTuple):
    r"""A batch as training would pair it.

    Attributes:
        index: Which data, with shape (B,).
        x: The data, floating, with shape (B, \*).
        drawn: The noise that was drawn, with the shape of ``x``.
        noise: The noise after the coupling, with the shape of ``x``.
    """

    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    x: Tensor
    drawn: Tensor
    noise: Tensor


def take(data: Data, index: Tensor | slice) -> Tensor:
    r"""Some of the data, floating, with shape (B, \*); on the device of the data."""
    if isinstance(data, Tensor):
        values = data[index if isinstance(index, slice) else index.to(data.device)]
    else:
        values = torch.from_numpy(np.array(data[index if isinstance(index, slice) else index.numpy()]))
    return values if values.is_floating_point() else values.float()


def check_data(data: Data, least: int = 1) -> None:
    """Checks that there are enough data.

    Raises:
        InputError: If there are not, or they are no tensor or array with a first axis.
    """
    if not isinstance(data, Tensor | np.ndarray) or data.ndim < 1:
        raise InputError(f"data must be a tensor or an array with shape (N, ...), got {type(data).__name__}.")
    if len(data) < least:
        raise InputError(f"data must be at least {least}, got {len(data)}.")


def check_counts(**counts: int) -> None:
    """Checks that numbers of something are whole and at least 1.

    Raises:
        InputError: If one is not.
    """
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InputError(f"`{name}` must be a whole number of at least 1, got {count!r}.")


def some(count: int, among: int, draws: torch.Generator) -> Tensor:
    """Places of some data, on the CPU, each once; all of them where there are no more. Those drawn are in order."""
    return torch.randperm(among, generator=draws)[: min(count, among)].sort().values


def pairs(
    data: Data,
    coupling: Coupling,
    *,
    batches: int,
    batch_size: int,
    labels: Tensor | None = None,
    seed: int = 0,
    condition: Tensor | None = None,
) -> Iterator[Pairs]:
    r"""Batches of different data, drawn and paired as training does.

    Arguments:
        data: The data, with shape (N, \*).
        coupling: The coupling.
        batches: How many batches.
        batch_size: The data in each, at most all.
        labels: The class of each datum, with shape (N,), where the coupling is to be given them.
        seed: The seed of the data and the noise.
        condition: The condition of each, with shape (N, \*), where the space of the coupling ranks by it.
    """
    check_counts(batches=batches, batch_size=batch_size)
    for batch in range(batches):
        index = some(batch_size, len(data), generator("cpu", seed, "analysis data", batch))
        x = take(data, index)
        draws = generator(x.device, seed, "analysis noise", batch)
        drawn = torch.randn(x.shape, generator=draws, dtype=x.dtype, device=x.device)
        groups = None if labels is None else labels[index.to(labels.device)].to(x.device)
        here = coupling if condition is None else given(coupling, condition[index.to(condition.device)].to(x.device))
        yield Pairs(index, x, drawn, here(x, drawn, labels=groups, generator=draws))
