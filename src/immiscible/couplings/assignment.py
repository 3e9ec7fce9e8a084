r"""Linear assignment: the noises of a pool are permuted to the pairing of least summed squared distance.

.. math:: \pi^\star = \arg\min_{\pi \in S_N} \sum_i |x_i - n_{\pi(i)}|^2
    = \arg\min_{\pi \in S_N} \sum_i -\langle x_i, n_{\pi(i)} \rangle

since the squared norms add up to the same for every permutation: one matrix product is all the cost there is. A
permutation keeps the set of noises, so the noise law stays exact (Immiscible Diffusion, arXiv 2406.12303). The pool is
a batch, or the batches of several processes together (:mod:`immiscible.couplings.distributed.solve`).

Two controls ask whether it is the short way that helps, or that each datum keeps to a part of the noise. They permute
too, so their law is as exact. ``goal="worst"`` takes the *largest* summed distance. Paper 1's control without optimal
transport assigns to the noise with its sign turned, which is the same permutation, since

.. math:: \sum_i |x_i + n_{\pi(i)}|^2 = \sum_i 2 |x_i|^2 + 2 |n_{\pi(i)}|^2 - |x_i - n_{\pi(i)}|^2 .

``temperature`` :math:`T` solves for a cost that is perturbed at random (Gumbel matching, arXiv 1802.08665), with
independent standard Gumbel variables :math:`g` and the standard deviation :math:`s` of the pool's doubly centred cost:

.. math:: \pi = \arg\min_{\pi \in S_N} \sum_i -\langle x_i, n_{\pi(i)} \rangle / s - T g_{i \pi(i)}

Were it not for the others, each datum would draw from the softmax of its row, the one-sided entropic plan (Gumbel-max);
together they draw a permutation, and need no plan, whose rows and columns would have to sum to one first. It
interpolates: :math:`T = 0` is the assignment, and as :math:`T` grows all permutations become as likely as each other,
which is independent noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from immiscible.couplings.conditions import accompany, alone, weight_and_mean, weighted
from immiscible.couplings.distributed.ranks import Ranks, check_share, note_pool, note_single, together
from immiscible.couplings.distributed.solve import Share, agree, begin
from immiscible.couplings.protocol import check_inputs, eager, full_float32
from immiscible.couplings.solvers.select import Method
from immiscible.errors import InputError

# Its mirror images would be drawn to far conditions, too.
TO_THE_NEAREST = "a condition is for assignments to the nearest, got goal='worst': leave it out."
# The largest seed that is drawn from a generator.
SEEDS = 2**62


@dataclass(frozen=True)
class LinearAssignment:
    r"""Permutes the noise of a batch to the assignment of least summed squared distance to the data.

    Source: arXiv 2406.12303, with the squared distance in place of the distance.

    The noise may have any law, so a second data set in its place is paired as well. Of a single datum, or one in each
    class, nothing can change places, which is logged once.

    Arguments:
        block: Where given, the pool (each class) is split at random into blocks of at most this many data, and the
            assignment is solved in each. At least 2.
        solver: ``exact``; ``auction``, near the optimum and on the device of the data; ``sinkhorn``, drawn from an
            entropic plan without replacement; ``slabs``, for thousands of images; or ``auto``, which takes exact, slabs
            or blocks by the number and the variance of the data. See :mod:`immiscible.couplings.solvers.select`.
        pool: ``batch``, what is handed in; or ``global``, what all ranks of a process group hand in together, which
            all must then call. Their batches may differ in size.
        budget: The seconds that ``solver="auto"`` may take for a pool.
        group: The process group that shares a global pool; None for the default one.
        goal: ``best``, the least summed distance; or ``worst``, the largest, a control.
        temperature: How much of the cost is random, in its own standard deviations, at least 0; 0.3 to 3 is most of
            the way from the assignment to independent noise. Above 0 for ``exact``, ``auction`` and ``sinkhorn`` only.

    Example:
        >>> x, labels = torch.randn(8, 3, 4, 4), torch.tensor([0, 1] * 4)
        >>> noise = LinearAssignment()(x, torch.randn_like(x), labels=labels)
    """

    moves: ClassVar[str] = (
        'whole noises between data, within each class if labels are given; with pool="global" between ranks too. '
        'With goal="worst" as far apart as can be, with a temperature partly at random.'
    )
    law: ClassVar[str] = "exact: the noises of a pool are the ones drawn, in another order."
    cost: ClassVar[str] = (
        "one float32 matrix product, O(N^2 D), then the solver, O(N^3) at worst; with block=n O(N n D) and O(N "
        "n^2), with slabs O(N D). Memory N^2 floats, N n with blocks, O(N) with slabs, and as much again with a "
        "temperature."
    )

    block: int | None = None
    solver: Literal["exact", "auction", "sinkhorn", "slabs", "auto"] = "exact"
    pool: Literal["batch", "global"] = "batch"
    budget: float | None = None
    group: Any = field(default=None, repr=False)
    goal: Literal["best", "worst"] = "best"
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.pool, str) or self.pool not in ("batch", "global"):
            raise InputError(f"`pool` must be batch or global, got {self.pool!r}.")
        if not isinstance(self.goal, str) or self.goal not in ("best", "worst"):
            raise InputError(f"`goal` must be best or worst, got {self.goal!r}.")
        if self.group is not None and self.pool != "global":
            raise InputError('`group` is for pool="global", got it with pool="batch".')
        _ = self.method

    @property
    def method(self) -> Method:
        """How a pool is solved."""
        return Method(self.solver, self.block, self.budget, self.temperature)

    def toward(self, x: Tensor) -> Tensor:
        """What noise is assigned to: the data, or their mirror images, which are nearest to what is farthest."""
        return x if self.goal == "best" else -x

    def ranks(self) -> Ranks:
        """Who shares a pool."""
        return Ranks.of(self.group) if self.pool == "global" else Ranks()

    @eager
    def __call__(
        self,
        x: Tensor,
        noise: Tensor,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        condition: Tensor | None = None,
        condition_weight: float | None = None,
    ) -> Tensor:
        r"""Couples, see :class:`~immiscible.couplings.protocol.Coupling`.

        With a global pool blocks are drawn from the generator of the first rank, and wrong input of one rank raises on
        all of them, as does the same noise on two.

        Arguments:
            x: The data, with shape (B, \*).
            noise: The noise, with the shape of ``x``.
            labels: The class of each datum, with shape (B,): noise stays within classes.
            generator: The source of all randomness, on the device of ``x``.
            condition: The condition of each datum, floating numbers with shape (B, \*), on the device of ``x``: noise
                moves between data of near conditions (:mod:`immiscible.couplings.conditions`).
            condition_weight: The weight of a squared distance of conditions, at least 0; by default it is found from
                the batch. A loop of many steps finds it once, see :class:`~immiscible.ConditionSpace`.
        """
        if condition is None:
            every, order = self._assigned(x, noise, labels, generator)
            return every.index_select(0, order)
        beside = self._beside(x, noise, condition, condition_weight)
        every, order = self._assigned(accompany(x, beside), accompany(noise, beside), labels, generator)
        return alone(every.index_select(0, order), noise)

    @eager
    def order(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """The place in the pool of the noise of each datum of this rank, see :func:`immiscible.permutation`."""
        return self._assigned(x, noise, labels, generator)[1]

    def _assigned(
        self, x: Tensor, noise: Tensor, labels: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The noise of the pool, and the place in it that each datum of this rank takes its own from."""
        ranks = self.ranks()
        error = _wrong(x, noise, labels, generator, ranks)
        counts = agree(x, labels, ranks, error, noise)
        with full_float32(x.device):
            if not sum(counts):
                raise InputError("a pool must have at least one datum, got none on any rank.")
            every = ranks.concatenate(noise.detach(), counts)
            share = Share(self.toward(x), labels, lambda first, last: [every[first:last]])
            pending = begin(share, ranks, counts, self.method, self._seed(generator, ranks, sum(counts)))
            note_single(ranks, pending.alone, sum(counts))
            order = pending.own()
            note_pool(ranks, sum(counts))
            return every, order.to(every.device)

    def _beside(self, x: Tensor, noise: Tensor, condition: Tensor, weight: float | None) -> Tensor:
        """What stands beside data and noise, with shape (B, c), by one weight and mean on all ranks of a pool."""

        def found() -> Tensor:
            check_inputs(x, noise, None, None, least=0)
            if self.goal == "worst":
                raise InputError(TO_THE_NEAREST)
            return weight_and_mean(x, noise, condition, weight)

        ranks = self.ranks()
        every = ranks.concatenate(together(ranks, found)[None], [1] * ranks.size)
        # A rank without data finds none.
        return weighted(condition, every[0, 1:], every[:, 0].max().item())

    def _seed(self, generator: torch.Generator | None, ranks: Ranks, total: int) -> int:
        """The seed of blocks and plans, that of the first rank on all. An exact assignment of all draws nothing."""
        if self.solver == "exact" and (self.block or total) >= total and not self.temperature:
            return 0
        device = generator.device if generator is not None else "cpu"
        # By way of the CPU, since ranks may differ in whether they give a generator.
        return int(ranks.from_first(torch.randint(SEEDS, (1,), generator=generator, device=device).cpu()))

    def __str__(self) -> str:
        settings = (
            "" if self.solver == "exact" else self.solver,
            "worst" if self.goal == "worst" else "",
            f"entropic:{self.temperature}" if self.temperature else "",
            self.block,
            self.pool if self.pool != "batch" else "",
        )
        return ":".join(["assignment", *(str(setting) for setting in settings if setting)])


def _wrong(
    x: Tensor, noise: Tensor, labels: Tensor | None, generator: torch.Generator | None, ranks: Ranks
) -> Exception | None:
    """What is wrong with the input of this rank, of whatever kind: others wait to hear of it."""
    try:
        check_share(x, noise, labels, generator, ranks)
    except Exception as error:
        return error
    return None
