"""One assignment over everything that is paired together: a batch, or what several processes bring to a pool.

Every rank computes the rows of the cost that belong to its own data, so the matrix product is shared out. One
collective takes the rows to the first rank (for slabs: coordinates along a few components instead), which solves;
another sends the index vector back. No noise travels here: the ranks either know all of it already or draw it again
from a seed.

Solving is apart from beginning, so that it can happen in a thread while a network trains. Collectives are called by the
thread that calls :func:`begin` and :meth:`Pending.order` only, never by the one that solves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import torch
from torch import Tensor

from immiscible.couplings.distributed.ranks import Ranks, fail_with_others, note_same
from immiscible.couplings.protocol import Permuting, full_float32, rows
from immiscible.couplings.solvers.dense import SOLVERS, perturb
from immiscible.couplings.solvers.leading import Leading
from immiscible.couplings.solvers.select import Method, chosen
from immiscible.couplings.solvers.slabs import BLOCK, slabs
from immiscible.couplings.solvers.threads import each
from immiscible.errors import InputError
from immiscible.seeds import seeded

Problem = Callable[[], Tensor]

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# Noises differ by their first values, data by a sample of the first datum, unless that is too little.
MARKED, SAMPLED, LEAST_BYTES = 64, 4096, 16


@dataclass(frozen=True)
class Share:
    r"""What a rank brings to a pool. The pool lists the data of the first rank, then those of the second, and so on.

    Arguments:
        x: The data of this rank as they are ranked, with shape (n, \\*). Other ranks may have more or fewer.
        labels: The class of each within which noise stays, with shape (n,), or None on all ranks.
        noise: Gives the pool's noise from one place of the pool to another, in pieces of shape (m, \\*); the same on
            all ranks.
    """

    x: Tensor
    labels: Tensor | None
    noise: Callable[[int, int], Iterable[Tensor]]


class Pending:
    """An assignment that is being solved.

    Attributes:
        counts: How many data each rank brought.
        alone: How many of all are the only ones of their class, or of all.
    """

    def __init__(
        self, ranks: Ranks, counts: list[int], alone: int, problem: Problem | None, executor: Executor | None
    ) -> None:
        self.counts, self.alone = counts, alone
        self._ranks = ranks
        self._problem = problem
        self._future: Future[Tensor] | None = executor.submit(problem) if executor and problem else None

    def order(self) -> Tensor:
        """Waits for the assignment; all ranks must ask.

        Returns:
            For each datum of the pool the place of its noise in the pool, ``int64`` on the CPU with shape (N,).
        """
        order, error = torch.full((sum(self.counts),), -1, device="cpu"), None
        try:
            if self._problem is not None:
                order = self._future.result() if self._future else self._problem()
        except BaseException as raised:
            error = raised
        # The others wait for this, whatever happened here. Whole numbers of 32 bits are enough, and half as many bytes.
        order = self._ranks.from_first(order.int()).long()
        if error is not None:
            raise error
        if len(order) and order[0] < 0:
            raise RuntimeError("the first rank of the pool could not pair it: its own message says why.")
        return order

    def own(self) -> Tensor:
        """The part of :meth:`order` that is about this rank's data."""
        first, last = _spans(self.counts)[self._ranks.rank]
        return self.order()[first:last]


def agree(
    x: Tensor,
    labels: Tensor | None,
    ranks: Ranks,
    error: Exception | None = None,
    noise: Tensor | None = None,
) -> list[int]:
    """How many data each rank brings, once it is clear that all fit together; all ranks must call it.

    Arguments:
        x: The data of this rank.
        labels: Their classes, or None.
        ranks: Who shares the pool.
        error: What is wrong with the input of this rank. Every rank then raises, instead of waiting for this one.
        noise: Their noise, where that is to travel, and not to be drawn from seeds in the dtype of the data.

    Raises:
        InputError: If the input of any rank is wrong, or does not fit that of the others, or two have the same noise.
    """
    if ranks.size == 1:
        if error:
            raise error
        return [len(x)]
    every = ranks.facts([1] + [0] * 6 if error else [0, *_facts(x, labels, noise)])
    if error:
        raise error
    fail_with_others([failed for failed, *_ in every])
    for rank, (*_, values, labelled, dtype, _, _) in enumerate(every):
        if [values, labelled, dtype] != every[0][2:5]:
            raise InputError(
                "all ranks of a pool must bring data of one size and dtype, all with labels or none, got "
                f"{_form(every[0])} on rank 0 and {_form(every[rank])} on rank {rank}."
            )
    _compare(ranks, [fact[5] for fact in every], [fact[6] for fact in every])
    return [count for _, count, *_ in every]


def _facts(x: Tensor, labels: Tensor | None, noise: Tensor | None) -> list[int]:
    """What has to fit that of other ranks, or to differ from it, as whole numbers."""
    dtype = (x if noise is None else noise).dtype
    form = [len(x), rows(x).shape[1], int(labels is not None), DTYPES.index(dtype) if dtype in DTYPES else -1]
    return [*form, 0 if noise is None else _mark(rows(noise[:MARKED]).flatten()[:MARKED]), _mark(_sample(x))]


def _form(facts: list[int]) -> str:
    _, _, values, labelled, dtype, *_ = facts
    return f"{values} values of {DTYPES[dtype]} with{'' if labelled else 'out'} labels"


def _sample(x: Tensor) -> Tensor:
    """Some values of all over the first datum."""
    first = rows(x[:1]).flatten()
    return first[:: max(1, len(first) // SAMPLED)]


def _mark(values: Tensor) -> int:
    """A whole number that differs for different values but for negligible odds; 0 for too few of them to tell."""
    given = values.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(given, digest_size=7).digest(), "big") if len(given) >= LEAST_BYTES else 0


def _compare(ranks: Ranks, noises: list[int], data: list[int]) -> None:
    """Refuses the same noise on two ranks, and warns of the same data."""
    if pair := _alike(noises):
        raise InputError(
            f"ranks {pair[0]} and {pair[1]} of the pool brought the same noise, and its law would be wrong: seed each "
            "rank on its own, with accelerate by `set_seed(seed, device_specific=True)`."
        )
    if pair := _alike(data):
        note_same(ranks, pair)


def _alike(marks: list[int]) -> tuple[int, int] | None:
    """The first two ranks with one mark."""
    first: dict[int, int] = {}
    for rank, mark in enumerate(marks):
        if mark and first.setdefault(mark, rank) != rank:
            return first[mark], rank
    return None


def begin(
    share: Share, ranks: Ranks, counts: list[int], method: Method, seed: int, executor: Executor | None = None
) -> Pending:
    """Computes the cost of a pool; all ranks must call it.

    Arguments:
        share: What this rank brings.
        ranks: Who shares the pool.
        counts: How many data each rank brings, see :func:`agree`.
        method: How to solve; the same on all ranks.
        seed: The seed of what is random in that; the same on all ranks.
        executor: Solves there, if given, and else when the assignment is asked for.
    """
    total = sum(counts)
    labels = None if share.labels is None else ranks.concatenate(share.labels.long(), counts).cpu()
    groups = _groups(total, labels, None)
    alone = sum(len(group) == 1 for group in groups)
    with full_float32(share.x.device):
        leading = Leading(share.x, ranks, counts)
        size = rows(share.x[:1]).shape[1]
        method = chosen(method, max(map(len, groups)), size, share.x.device, leading.held)
        if method.solver == "slabs":
            problem = _slabs(share, leading, groups, method, seed)
        else:
            # What it has of the data may be a copy.
            del leading
            groups = _groups(total, labels, method.block, seed)
            problem = _costs(share, ranks, counts, groups, method, seed)
    return Pending(ranks, counts, alone, problem, executor)


def begin_whole(
    share: Share, ranks: Ranks, counts: list[int], permuting: Permuting, seed: int, executor: Executor | None = None
) -> Pending:
    """Hands a pool as a whole to a coupling that permutes; the first rank calls it. All ranks must call this.

    Arguments:
        share: What this rank brings.
        ranks: Who shares the pool.
        counts: How many data each rank brings, see :func:`agree`.
        permuting: The coupling.
        seed: The seed of its generator.
        executor: Calls it there, if given, and else when the assignment is asked for.
    """
    data = ranks.to_first(share.x, counts)
    labels = [] if share.labels is None else ranks.to_first(share.labels.long(), counts)
    if not data:
        return Pending(ranks, counts, 0, None, executor)
    x, total = torch.cat(data).to(share.x.device), sum(counts)
    noise = torch.cat([piece.to(x.dtype) for piece in share.noise(0, total)])

    @torch.no_grad()
    def solve() -> Tensor:
        draws = seeded(seed) if x.device.type == "cpu" else torch.Generator(x.device).manual_seed(seed)
        classes = torch.cat(labels).to(x.device) if labels else None
        order = permuting.order(x, noise, labels=classes, generator=draws).cpu()
        if not order.sort().values.equal(torch.arange(total, device="cpu")):
            raise InputError(f"`order` of {permuting} must give each of {total} places once, got something else.")
        return order

    return Pending(ranks, counts, 0, solve, executor)


def _groups(total: int, labels: Tensor | None, block: int | None, seed: int = 0) -> list[Tensor]:
    """The ascending index sets inside which noises may change places: all, or classes, or random blocks of either."""
    groups = [torch.arange(total, device="cpu")]
    if labels is not None:
        groups = list(labels.argsort(stable=True).split(labels.unique(return_counts=True)[1].tolist()))
    if block is None or block >= max(map(len, groups)):
        return groups
    draws = torch.Generator("cpu").manual_seed(seed)
    shuffled = (group[torch.randperm(len(group), generator=draws, device="cpu")] for group in groups)
    return [part.sort().values for group in shuffled for part in group.tensor_split(-(-len(group) // block))]


def _within(group: Tensor, first: int, last: int) -> Tensor:
    """The part of an ascending index set from one place to another."""
    low, high = torch.searchsorted(group, torch.tensor([first, last], device="cpu")).tolist()
    return group[low:high]


def _spans(counts: list[int]) -> list[tuple[int, int]]:
    """Where the data of each rank lie in the pool."""
    ends = [sum(counts[: rank + 1]) for rank in range(len(counts))]
    return [(end - count, end) for end, count in zip(ends, counts, strict=True)]


def _costs(
    share: Share, ranks: Ranks, counts: list[int], groups: list[Tensor], method: Method, seed: int
) -> Problem | None:
    """What is left to do on the first rank, once it has the cost of every group."""
    spans = _spans(counts)
    own = [_within(group, *spans[ranks.rank]) - spans[ranks.rank][0] for group in groups]
    costs = _own_costs(share, groups, own, sum(counts))
    if ranks.size > 1:
        sizes = [sum(len(_within(group, *span)) * len(group) for group in groups) for span in spans]
        parts = ranks.to_first(torch.cat([cost.flatten() for cost in costs]), sizes)
        if not parts:
            return None
        costs = _assembled(parts, groups, spans)

    def solve() -> Tensor:
        order = torch.arange(sum(counts), device="cpu")
        solver = SOLVERS[method.solver]
        draws = torch.Generator(costs[0].device).manual_seed(seed)
        perturbed = [perturb(cost, method.temperature, draws) for cost in costs]
        for group, within in zip(groups, each(lambda cost: solver(cost, seed), perturbed), strict=True):
            order[group] = group[within]
        return order

    return solve


def _own_costs(share: Share, groups: list[Tensor], own: list[Tensor], total: int) -> list[Tensor]:
    """This rank's rows of each group's cost, up to terms that no permutation changes."""
    data = rows(share.x).float()
    points = [_chosen(data, index) for index in own]
    costs: list[list[Tensor]] = [[] for _ in groups]
    first = 0
    for piece in share.noise(0, total):
        noise = rows(piece).float()
        for cost, point, group in zip(costs, points, groups, strict=True):
            members = _within(group, first, first + len(noise)) - first
            cost.append((point @ _chosen(noise, members).T).neg_())
        first += len(noise)
    return [cost[0] if len(cost) == 1 else torch.cat(cost, 1) for cost in costs]


def _chosen(values: Tensor, index: Tensor) -> Tensor:
    """Some rows, or all of them without a copy."""
    return values if len(index) == len(values) else values.index_select(0, index.to(values.device))


def _assembled(parts: list[Tensor], groups: list[Tensor], spans: list[tuple[int, int]]) -> list[Tensor]:
    """The cost of each group, from what the ranks sent."""
    at = [0] * len(parts)
    costs = []
    for group in groups:
        cost = []
        for rank, span in enumerate(spans):
            size = len(_within(group, *span)) * len(group)
            cost.append(parts[rank][at[rank] : at[rank] + size].view(-1, len(group)))
            at[rank] += size
        costs.append(torch.cat(cost))
    return costs


def _slabs(share: Share, leading: Leading, groups: list[Tensor], method: Method, seed: int) -> Problem | None:
    """What is left to do on the first rank, once it has the coordinates of all data and noise."""
    data, _, basis = leading.fitted()
    ranks, counts = leading.ranks, leading.counts
    span = _spans(counts)[ranks.rank]
    noise = [rows(piece).float() @ basis for piece in share.noise(*span)]
    noise = torch.cat(noise) if noise else data[:0] @ basis
    parts = ranks.to_first(torch.cat([data @ basis, noise], 1), counts)
    if not parts:
        return None
    points, others = torch.cat(parts).cpu().chunk(2, dim=1)

    def solve() -> Tensor:
        order = torch.arange(len(points), device="cpu")
        for group in groups:
            order[group] = group[slabs(points[group], others[group], seed, method.block or BLOCK)]
        return order

    return solve
