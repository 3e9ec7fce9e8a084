r"""Linear assignment: the noises of a batch are permuted to the pairing of least summed squared distance.

.. math:: \pi^\star = \arg\min_{\pi \in S_B} \sum_i |x_i - n_{\pi(i)}|^2
    = \arg\min_{\pi \in S_B} \sum_i -\langle x_i, n_{\pi(i)} \rangle

since the squared norms add up to the same for every permutation: one matrix product is all the cost there is. A
permutation keeps the set of noises, so the noise law stays exact (Immiscible Diffusion, arXiv 2406.12303).

The solver is Jonker and Volgenant's, and exact. It starts from reduced costs, :math:`C_{ij} - f_i - g_j`, which have
the same best permutation for any :math:`f, g`: with the potentials of a few Sinkhorn iterations the solver, whose time
grows as :math:`B^3`, finds most rows settled and ends several times sooner. The nearer the potentials are to the dual
optimum the better, but no choice of them can change the result.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import lap
import numpy as np
import torch
from torch import Tensor

from immiscible.couplings.base import check_inputs, eager, finite_norms, full_float32, rows
from immiscible.errors import InputError

# The entropic temperature of the warm start, in standard deviations of the doubly centred cost, and its iterations.
# Measured on image-like data, B from 256 to 4096: lower or longer costs more than the solver saves, and the reverse.
WARM_TEMPERATURE = 0.1
WARM_ITERATIONS = 10
# Below this size the solver is quicker than its warm start.
WARM_FROM = 192


@dataclass(frozen=True)
class LinearAssignment:
    r"""Permutes the noise of a batch to the assignment of least summed squared distance to the data.

    *moves*: whole noises between data, within each class if labels are given.
    *marginal*: exact: the noises of a batch are the ones drawn, in another order.
    *cost*: one float32 matrix product, O(B\ :sup:`2` D), then the solver, O(B\ :sup:`3`) at worst; with ``block=n``
    O(B n D) and O(B n\ :sup:`2`). Memory B\ :sup:`2` (B n) floats.

    Source: arXiv 2406.12303, with the squared distance in place of the distance.

    Arguments:
        block: Where given, the batch (each class) is split at random into blocks of at most this many data, and the
            assignment is solved in each. At least 2.

    Example:
        >>> x, labels = torch.randn(8, 3, 4, 4), torch.tensor([0, 1] * 4)
        >>> noise = LinearAssignment()(x, torch.randn_like(x), labels=labels)
    """

    block: int | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.block, int) and not isinstance(self.block, bool)
        if self.block is not None and not (whole and self.block >= 2):
            raise InputError(f"`block` must be None or a whole number of at least 2, got {self.block!r}.")

    @eager
    def __call__(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Couples, see :class:`~immiscible.couplings.base.Coupling`."""
        check_inputs(x, noise, labels, generator)
        with full_float32(x.device):
            finite_norms(x, noise)
            groups = _groups(len(x), labels, self.block, generator)
            costs = [_cost(x, noise, group) for group in groups]
            order = torch.arange(len(x), device="cpu")
            for group, assignment in zip(groups, _solve_all(costs), strict=True):
                order[group] = group[assignment]
            return noise.detach().index_select(0, order.to(noise.device))

    def __str__(self) -> str:
        return "assignment" if self.block is None else f"assignment:{self.block}"


def assign(cost: Tensor) -> Tensor:
    r"""Solves the linear assignment problem exactly, in float64 on the CPU.

    .. math:: \pi^\star = \arg\min_{\pi \in S_n} \sum_i C_{i, \pi(i)}

    Arguments:
        cost: The cost matrix :math:`C`, with shape :math:`(n, n)`. Rows are data, columns are noise.

    Returns:
        The assignment :math:`\pi` on the CPU, with shape :math:`(n,)`: datum ``i`` takes noise ``pi[i]``.

    Raises:
        InputError: If the cost is not square, not finite, or beyond the range of float32.

    Example:
        >>> assign(torch.tensor([[4.0, 1.0], [1.0, 4.0]]))
        tensor([1, 0])
    """
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1]:
        raise InputError(f"`cost` must be square, got shape {tuple(cost.shape)}.")
    if not cost.float().isfinite().all():
        raise InputError("`cost` must be finite, got NaN, infinite values or values too large for float32.")
    with full_float32(cost.device):
        # Potentials as large as the largest costs would drown the small ones in float32.
        return _solve_all([cost.cpu().to(torch.float64, copy=True)])[0]


def _groups(batch: int, labels: Tensor | None, block: int | None, generator: torch.Generator | None) -> list[Tensor]:
    """The index sets, on the CPU, inside which noises may change places: all, or classes, or blocks of either."""
    groups = [torch.arange(batch, device="cpu")]
    if labels is not None:
        classes = labels.cpu()
        groups = list(classes.argsort(stable=True).split(classes.unique(return_counts=True)[1].tolist()))
    if block is None or block >= max(map(len, groups)):
        return groups
    device = generator.device if generator is not None else "cpu"
    shuffled = (group[torch.randperm(len(group), generator=generator, device=device).cpu()] for group in groups)
    return [part for group in shuffled for part in group.tensor_split(-(-len(group) // block))]


def _cost(x: Tensor, noise: Tensor, group: Tensor) -> Tensor:
    """The cost matrix of a group where the data lives, up to terms that no permutation changes."""
    if len(group) < len(x):
        index = group.to(x.device)
        x, noise = x.index_select(0, index), noise.index_select(0, index)
    return (rows(x).float() @ rows(noise).float().T).neg_()


def _solve_all(costs: list[Tensor]) -> list[Tensor]:
    """Solves each cost matrix, which is overwritten; only reduced costs and index vectors cross to the CPU."""
    solve = solver()
    reduced = [_reduce(cost) for cost in costs]
    return [torch.from_numpy(solve(cost.cpu().numpy())) for cost in reduced]


def _reduce(cost: Tensor) -> Tensor:
    """Subtracts potentials of rows and columns in place, such that little is left for the solver to do.

    First the means, since data with a strong common direction would fill the columns with that alone; then, in large
    problems, Sinkhorn's potentials. The iterations run on scalings of one kernel, not on logarithms: a matrix-vector
    product each.
    """
    cost.sub_(cost.mean(0)).sub_(cost.mean(1, keepdim=True))
    scale = cost.std().item() * WARM_TEMPERATURE if len(cost) >= WARM_FROM else 0.0
    if scale > 0:
        # The kernel stays in the range of float32: below the floor a pair is as good as excluded.
        kernel = (cost - cost.amin(1, keepdim=True)).div_(-scale).clamp_min_(-80).exp_()
        left = right = torch.ones_like(cost[0])
        for _ in range(WARM_ITERATIONS):
            right = (kernel.T @ left).reciprocal_()
            left = (kernel @ right).reciprocal_()
        columns = right.log_().mul_(scale)
        cost.sub_(columns)
        cost.sub_(cost.amin(1, keepdim=True))
    return cost


@functools.cache
def solver() -> Callable[[np.ndarray], np.ndarray]:
    """The exact solver at hand: lapx's Jonker-Volgenant, or SciPy's where another package hides it."""
    if hasattr(lap, "lapjvr"):
        return lambda cost: lap.lapjvr(cost, return_cost=False)[1]
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise InputError(f"the module `lap` must be lapx's, got one without `lapjvr`: {LAPX_FIX}.") from None
    warnings.warn(f"the module `lap` has no `lapjvr`, so SciPy solves, several times slower: {LAPX_FIX}.", stacklevel=2)
    return lambda cost: linear_sum_assignment(cost)[1]


LAPX_FIX = "run `pip uninstall lap` and then `pip install --force-reinstall lapx`"
