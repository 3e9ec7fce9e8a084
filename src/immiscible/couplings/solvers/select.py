"""Which solver for which pool: the rungs of the ladder, and the choice that ``solver="auto"`` makes.

``exact`` finds the optimum in time that grows as :math:`N^3`; ``auction`` comes within a per cent of it on the device
of the data; ``sinkhorn`` draws from an entropic plan; ``slabs`` takes time that grows as :math:`N`. With a block size
the pool is cut at random first, except for slabs, which have blocks of their own.

Slabs compare along the leading components of the data only. Where those hold most of the variance, as in natural
images, they keep about nine tenths of the exact reduction; in fields that are rougher, such as latents, they keep a
half or less, and random blocks keep more. So above what is solved exactly ``auto`` measures that share of the variance
before it trusts slabs, and else cuts into blocks.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from immiscible.couplings.log import note_once
from immiscible.couplings.solvers.dense import SOLVERS
from immiscible.couplings.solvers.leading import SAMPLE
from immiscible.couplings.solvers.slabs import BLOCK, COMPONENTS, ROUNDS
from immiscible.errors import InputError

NAMES = (*SOLVERS, "slabs", "auto")
# Without a budget, pools up to this size are solved exactly.
EXACT_UP_TO = 2048
# Slabs are taken where their components hold at least this share of the variance. Measured at N = 4096 on fields of
# 3x32x32: a share of 0.80, 0.85, 0.89, 0.94 keeps 0.83, 0.85, 0.88, 0.90 of the exact reduction; blocks keep 0.90.
LEAST_HELD = 0.88
# Else the pool is cut into blocks of this size.
BLOCKS = 1024
# Measured on two cores, from N = 512 to 8192 (the table in docs/scaling.md): multiplications and additions of a matrix
# product per second, and seconds of the exact solver at a size, with the power of N by which they grow. They only
# have to be right within a factor of two or so, since rungs lie further apart than that.
PRODUCTS_PER_SECOND = 2e11
SOLVED, SECONDS, GROWTH = 4096, 0.27, 2.8


@dataclass(frozen=True)
class Method:
    """How a pool is solved.

    Arguments:
        solver: One of exact, auction, sinkhorn, slabs and auto.
        block: The largest number of data that are solved together, or None.
        budget: The seconds that ``auto`` may take for a pool, or None.
        temperature: How much of the cost is random, in its standard deviations.
    """

    solver: str = "exact"
    block: int | None = None
    budget: float | None = None
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.solver, str) or self.solver not in NAMES:
            raise InputError(f"`solver` must be one of {', '.join(NAMES)}, got {self.solver!r}.")
        whole = isinstance(self.block, int) and not isinstance(self.block, bool)
        if self.block is not None and not (whole and self.block >= 2):
            raise InputError(f"`block` must be None or a whole number of at least 2, got {self.block!r}.")
        if self.budget is not None and not (_is_number(self.budget) and self.budget > 0):
            raise InputError(f"`budget` must be None or a positive number of seconds, got {self.budget!r}.")
        if self.budget is not None and self.solver != "auto":
            raise InputError(f'`budget` is for solver="auto", got it with {self.solver!r}.')
        if not _is_number(self.temperature) or not 0 <= self.temperature < math.inf:
            raise InputError(f"`temperature` must be a finite number of at least 0, got {self.temperature!r}.")
        if self.temperature and self.solver not in SOLVERS:
            raise InputError(f"`temperature` is for solver {', '.join(SOLVERS)}, got it with {self.solver!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def chosen(method: Method, count: int, size: int, device: torch.device, held: Callable[[], float]) -> Method:
    """The method with ``auto`` made into a solver; the first time each is taken is logged.

    Arguments:
        method: The method.
        count: How many data are paired together, N.
        size: The number of values of each, D.
        device: Where they are.
        held: Measures the share of the variance that the leading components hold, from 0 to 1. Called where the choice
            depends on it.
    """
    if method.solver != "auto":
        return method
    taken, why = by_size(method, count, size, device), ""
    if taken is None:
        share = held()
        taken, why = by_variance(method, share), because(share)
    message = f"solver auto takes {name(taken)} for {count} data of {size} values on {device.type}{why}."
    note_once(f"auto {name(taken)}", logging.INFO, message)
    return taken


def by_size(method: Method, count: int, size: int, device: torch.device) -> Method | None:
    """What ``auto`` takes where that is known without the data, or None; see :func:`chosen`."""
    together = min(count, method.block or count)
    expected = exact_seconds(together, size, device) * -(-count // together)
    fits = together <= EXACT_UP_TO if method.budget is None else expected <= method.budget
    if fits:
        return dataclasses.replace(method, solver="exact", budget=None)
    # Few values are all components, and blocks of no less than everything would not be quicker than exact.
    sure = size <= COMPONENTS or together <= BLOCKS
    return dataclasses.replace(method, solver="slabs", budget=None) if sure else None


def by_variance(method: Method, held: float) -> Method:
    """What ``auto`` takes for a large pool, by the share of its variance that the leading components hold."""
    if held >= LEAST_HELD:
        return dataclasses.replace(method, solver="slabs", budget=None)
    return dataclasses.replace(method, solver="exact", block=BLOCKS, budget=None)


def name(method: Method) -> str:
    """A method in words."""
    if method.solver == "exact" and method.block == BLOCKS:
        return f"blocks of {BLOCKS}"
    return method.solver


def because(held: float) -> str:
    """Why slabs are taken or not."""
    return f", since {COMPONENTS} components hold {100 * held:.0f} % of their variance"


def exact_seconds(count: int, size: int, device: torch.device) -> float:
    """About how long an exact assignment takes. Products on anything but a CPU are taken to cost nothing."""
    product = 2 * count**2 * size / PRODUCTS_PER_SECOND if device.type == "cpu" else 0.0
    return product + SECONDS * (count / SOLVED) ** GROWTH


def slabs_seconds(count: int, size: int, device: torch.device) -> float:
    """About how long slabs take."""
    components = min(COMPONENTS, size)
    product = 4 * count * size * components / PRODUCTS_PER_SECOND if device.type == "cpu" else 0.0
    fit = SAMPLE**2 * size * 4 / PRODUCTS_PER_SECOND
    return fit + product + ROUNDS * count / BLOCK * exact_seconds(BLOCK, components, torch.device("cpu"))
