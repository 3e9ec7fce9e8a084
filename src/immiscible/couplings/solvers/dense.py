r"""Solvers of the linear assignment problem: an exact one, and two that run where the cost is, whatever the device.

.. math:: \pi^\star = \arg\min_{\pi \in S_n} \sum_i C_{i, \pi(i)}

*exact* is Jonker and Volgenant's, on the CPU. *auction* is Bertsekas': data that have no noise bid for the one that is
worth most to them, by as much as it is worth more than the second, and :math:`\varepsilon` besides; what comes out
costs at most :math:`n \varepsilon` more than the optimum. *sinkhorn* is entropic: its plan is a matrix of weights, and
each datum draws its noise from its row, from what those before it have left.

All start from reduced costs, :math:`C_{ij} - f_i - g_j`, which have the same best permutation for any :math:`f, g`.
With the potentials of a few Sinkhorn iterations the exact solver, whose time grows as :math:`n^3`, finds most rows
settled and ends several times sooner, and the auction needs hundreds of rounds where it needed thousands. The nearer
the potentials are to the dual optimum the better, but no choice of them can change the optimum.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import lap
import numpy as np
import torch
from torch import Tensor

from immiscible.couplings.protocol import check_dense, check_values, full_float32
from immiscible.errors import InputError

# The entropic temperature of the warm start, in standard deviations of the doubly centred cost, and its iterations.
# Measured on image-like data, n from 256 to 4096: lower or longer costs more than the solver saves, and the reverse.
WARM_TEMPERATURE = 0.1
WARM_ITERATIONS = 10
# Below this size the exact solver is quicker than its warm start.
WARM_FROM = 192
# What the rounding of the largest cost may be, in units of the least of each row, where potentials are subtracted.
ROUNDED = 1e-11
# What a bid exceeds the second best by, in standard deviations of the cost. Less takes longer and gains little.
BID_INCREMENT = 0.05
# Temperature and iterations of the entropic plan: lower or fewer and its rows and columns no longer sum to one.
PLAN_TEMPERATURE = 0.05
PLAN_ITERATIONS = 20
# Below the smallest normal float a weight of the plan counts as this.
LEAST_WEIGHT = 1e-38
# About the least exponential variable that float32 draws beside zero.
LEAST_DRAW = 2.0**-25

Solve = Callable[[Tensor, int], Tensor]


def assign(cost: Tensor) -> Tensor:
    r"""Solves the linear assignment problem exactly, in float64 on the CPU.

    .. math:: \pi^\star = \arg\min_{\pi \in S_n} \sum_i C_{i, \pi(i)}

    Arguments:
        cost: The cost matrix :math:`C`, with shape :math:`(n, n)`. Rows are data, columns are noise. A
            pair is forbidden by a finite cost far above the others, such as 1e18.

    Returns:
        The assignment :math:`\pi` on the CPU, with shape :math:`(n,)`: datum ``i`` takes noise ``pi[i]``.

    Raises:
        InputError: If the cost is not square, not finite, or beyond the range of float32.

    Example:
        >>> assign(torch.tensor([[4.0, 1.0], [1.0, 4.0]]))
        tensor([1, 0])
    """
    check_dense(cost, "cost")
    check_values(cost, "cost")
    if cost.is_complex():
        raise InputError(f"`cost` must have real values, got {cost.dtype}: use `cost.real`.")
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1]:
        raise InputError(f"`cost` must be square, got shape {tuple(cost.shape)}.")
    if not cost.float().isfinite().all():
        raise InputError(
            "`cost` must be finite, got NaN, infinite values or values too large for float32: forbid a pair by a large "
            "finite cost, such as 1e18."
        )
    with full_float32(cost.device):
        # Potentials as large as the largest costs would drown the small ones in float32.
        return _assigned(cost.detach().cpu().to(torch.float64, copy=True))


def _assigned(cost: Tensor) -> Tensor:
    """Solves what is in float64, which is overwritten.

    Subtracting potentials rounds everything to the precision of the largest cost. Where those that matter are as small
    as that, beside forbidden pairs of 1e13 say, the solver gets the cost as it is.
    """
    if not len(cost):
        return torch.empty(0, dtype=torch.int64, device="cpu")
    rounding = torch.finfo(cost.dtype).eps * cost.abs().amax()
    if rounding <= ROUNDED * cost.amin(1).abs().mean():
        return exact(cost)
    return torch.from_numpy(jonker_volgenant()(cost.numpy())).long()


def exact(cost: Tensor, seed: int = 0) -> Tensor:
    """Solves exactly; only the reduced cost and the assignment cross to the CPU and back.

    Arguments:
        cost: The cost, with shape (n, n), on any device. It is overwritten.
        seed: Not needed here; all solvers have the same signature.

    Returns:
        The assignment on the CPU, ``int64`` with shape (n,).
    """
    return torch.from_numpy(jonker_volgenant()(reduce(cost).cpu().numpy())).long()


def auction(cost: Tensor, seed: int = 0) -> Tensor:
    """Solves to within a small increment by auction, on the device of the cost; see :func:`exact`.

    All data without noise bid at once (Bertsekas' Jacobi version), so that a round is some operations on whole tensors.
    """
    increment = cost.std().item() * BID_INCREMENT if len(cost) > 1 else 0.0
    if not increment > 0:
        return torch.arange(len(cost), device="cpu")
    value, count = reduce(cost).neg_(), len(cost)
    price = torch.zeros(count, device=cost.device, dtype=cost.dtype)
    owner = torch.full((count,), -1, device=cost.device)
    bidders = torch.arange(count, device=cost.device)
    while len(bidders):
        best = (value[bidders] - price).topk(2, dim=1)
        wanted = best.indices[:, 0]
        bid = price[wanted] + best.values[:, 0] - best.values[:, 1] + increment
        price.scatter_reduce_(0, wanted, bid, "amax")
        # Of equal bids one wins: whichever was written last owns the noise.
        highest = bid == price[wanted]
        losers = owner[wanted[highest]].unique()
        owner[wanted[highest]] = bidders[highest]
        lost = owner[wanted] != bidders
        bidders = torch.cat([bidders[lost], losers[losers >= 0]])
    return _inverse(owner).cpu()


def sinkhorn(cost: Tensor, seed: int = 0) -> Tensor:
    """Draws an assignment from the entropic plan, row by row without replacement, on the device; see :func:`exact`.

    Adding Gumbel noise to the logarithms of a row and taking the largest draws from the row, and taking the largest of
    those that are left draws from what is left. So each datum has a fixed order of preference, and the turn at which it
    chooses is drawn too. Where many choose at once and a noise goes to whoever chooses first (deferred acceptance,
    Gale and Shapley 1962), the outcome is that of choosing in turn.
    """
    draws = torch.Generator(cost.device).manual_seed(seed)
    preference = _plan(cost).clamp_min_(LEAST_WEIGHT).log_()
    preference -= torch.empty_like(preference).exponential_(generator=draws).log_()
    count = len(cost)
    # Data in the order of their turns; `holder` has the turn of who holds a noise, or `count` for nobody.
    in_turn = torch.randperm(count, generator=draws, device=cost.device)
    preference = preference[in_turn]
    holder = torch.full((count,), count, device=cost.device)
    asking = torch.arange(count, device=cost.device)
    while len(asking):
        earlier = holder < asking[:, None]
        wanted = preference[asking].masked_fill_(earlier, -torch.inf).argmax(1)
        before = holder.clone()
        holder.scatter_reduce_(0, wanted, asking, "amin")
        displaced = before[(holder != before) & (before < count)]
        asking = torch.cat([asking[holder[wanted] != asking], displaced])
    return _inverse(in_turn[holder]).cpu()


SOLVERS: dict[str, Solve] = {"exact": exact, "auction": auction, "sinkhorn": sinkhorn}


def perturb(cost: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Adds to a cost, in place, Gumbel noise of a temperature in standard deviations of the doubly centred cost.

    Arguments:
        cost: The cost, with shape (n, n).
        temperature: The temperature; 0 leaves the cost as it is.
        generator: Draws it, on the device of the cost.
    """
    scale = _centre(cost).std().item() * temperature if temperature and len(cost) > 1 else 0.0
    if scale > 0:
        # The logarithm of an exponential variable is minus a Gumbel variable. That of a zero would be infinite.
        draws = torch.empty_like(cost).exponential_(generator=generator).clamp_min_(LEAST_DRAW)
        cost.add_(draws.log_(), alpha=scale)
    return cost


def reduce(cost: Tensor) -> Tensor:
    """Subtracts potentials of rows and columns in place, such that little is left for a solver to do.

    First the means, since data with a strong common direction would fill the columns with that alone; then, in large
    problems, Sinkhorn's potentials.
    """
    _centre(cost)
    scale = cost.std().item() * WARM_TEMPERATURE if len(cost) >= WARM_FROM else 0.0
    if scale > 0:
        kernel = _kernel(cost, scale)
        cost.sub_(_scalings(kernel, WARM_ITERATIONS)[1].log_().mul_(scale))
        cost.sub_(cost.amin(1, keepdim=True))
    return cost


def _centre(cost: Tensor) -> Tensor:
    return cost.sub_(cost.mean(0)).sub_(cost.mean(1, keepdim=True))


def _kernel(cost: Tensor, scale: float) -> Tensor:
    """exp(-cost / scale), in the range of float32: below the floor a pair is as good as excluded."""
    return (cost - cost.amin(1, keepdim=True)).div_(-scale).clamp_min_(-80).exp_()


def _scalings(kernel: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Sinkhorn's scalings of rows and columns, not their logarithms: a matrix-vector product each."""
    left = right = torch.ones_like(kernel[0])
    for _ in range(iterations):
        right = (kernel.T @ left).reciprocal_()
        left = (kernel @ right).reciprocal_()
    return left, right


def _plan(cost: Tensor) -> Tensor:
    """The entropic plan, whose rows sum to one, and its columns nearly so. The cost is overwritten."""
    scale = _centre(cost).std().item() * PLAN_TEMPERATURE if len(cost) > 1 else 0.0
    if not scale > 0:
        return torch.ones_like(cost)
    kernel = _kernel(cost, scale)
    left, right = _scalings(kernel, PLAN_ITERATIONS)
    return kernel.mul_(left[:, None]).mul_(right)


def _inverse(owner: Tensor) -> Tensor:
    """The noise of each datum, from the datum of each noise."""
    return torch.empty_like(owner).scatter_(0, owner, torch.arange(len(owner), device=owner.device))


@functools.cache
def jonker_volgenant() -> Callable[[np.ndarray], np.ndarray]:
    """The exact solver that is installed: lapx's Jonker-Volgenant, or SciPy's where another package hides it.

    It takes more columns than rows too, of which some are then left over.
    """
    if hasattr(lap, "lapjvr"):
        return lambda cost: lap.lapjvr(cost, extend_cost=True, return_cost=False)[1]
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise InputError(f"the module `lap` must be lapx's, got one without `lapjvr`: {LAPX_FIX}.") from None
    warnings.warn(f"the module `lap` has no `lapjvr`, so SciPy solves, several times slower: {LAPX_FIX}.", stacklevel=2)
    return lambda cost: linear_sum_assignment(cost)[1]


LAPX_FIX = "run `pip uninstall lap` and then `pip install --force-reinstall lapx`"
