"""The processes that share a pool, and what they send each other.

Everything runs over a process group of ``torch.distributed`` that is initialised already, by a launcher such as
``torchrun`` with accelerate, Lightning or ``init_process_group``. Without one there is a single rank, and nothing here
communicates. All ranks must call the same functions in the same order, like any collective.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from immiscible.couplings.log import leave_unnoted, note_once
from immiscible.couplings.protocol import check_inputs, finite_norms, full_float32, unwrap
from immiscible.errors import InputError

T = TypeVar("T")

# What is logged once: that ranks share a pool, that they do not, that there is nothing to pair, and that they brought
# the same data.
GLOBAL, ALONE, SINGLE, SAME = "global", "alone", "single", "same"


@dataclass(frozen=True)
class Ranks:
    """The processes that share a pool.

    Arguments:
        group: Their process group; None for the default one.
        rank: The number of this process in the group.
        size: How many there are.
    """

    group: Any = None
    rank: int = 0
    size: int = 1

    @staticmethod
    def of(group: Any = None) -> Ranks:
        """The ranks of a process group, the default one unless given, or this process alone where there is none.

        Raises:
            InputError: If a launcher started several processes and no process group is initialised, or this process
                is not in the group.
        """
        if not (dist.is_available() and dist.is_initialized()):
            launched = os.environ.get("WORLD_SIZE", "1")
            if launched not in ("", "1"):
                raise InputError(
                    f"a pool over all ranks needs an initialised process group, got none although WORLD_SIZE is "
                    f"{launched}: call torch.distributed.init_process_group (accelerate and Lightning do)."
                )
            return Ranks()
        if dist.get_rank(group) < 0:
            raise InputError("the process group of a pool must include this process, got one without it.")
        return Ranks(group, dist.get_rank(group), dist.get_world_size(group))

    def device(self, data: torch.device) -> torch.device:
        """Where tensors have to be to travel, given where the data are: what the backends of the group can reach."""
        backends = dict(pair.split(":") for pair in str(dist.get_backend_config(self.group)).split(","))
        # Gloo takes tensors of a GPU too, but by way of the CPU, piece by piece.
        if data.type != "cpu" and backends.get(data.type, "gloo") != "gloo":
            return data
        if "cpu" in backends:
            return torch.device("cpu")
        return torch.device(next(iter(backends)), torch.accelerator.current_device_index())

    def facts(self, values: list[int]) -> list[list[int]]:
        """A few whole numbers of every rank. They travel in one way whatever the data of a rank are, if any."""
        if self.size == 1:
            return [values]
        own = torch.tensor(values, device=self.device(torch.device("cpu")))
        every = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(every, own, group=self.group)
        return [part.tolist() for part in every]

    def concatenate(self, rows: Tensor, counts: list[int]) -> Tensor:
        """The rows of all ranks, one rank after the other, on the device of the rows.

        Arguments:
            rows: What this rank has, with shape (n, ...), alike on all but for n.
            counts: The n of every rank.
        """
        if self.size == 1:
            return rows
        padded = _padded(rows.to(self.device(rows.device)), max(counts))
        every = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(every, padded, group=self.group)
        return torch.cat([part[:count] for part, count in zip(every, counts, strict=True)]).to(rows.device)

    def to_first(self, rows: Tensor, counts: list[int]) -> list[Tensor]:
        """What each rank has, on the first one; the others get an empty list. See :meth:`concatenate`."""
        if self.size == 1:
            return [rows]
        padded = _padded(rows.to(self.device(rows.device)), max(counts))
        first = self.rank == 0
        every = [torch.empty_like(padded) for _ in range(self.size)] if first else None
        dist.gather(padded, every, group=self.group, group_dst=0)
        return [part[:count] for part, count in zip(every or [], counts, strict=False)]

    def from_first(self, values: Tensor) -> Tensor:
        """What the first rank has, on all; the others give a tensor of the same shape and dtype."""
        if self.size == 1:
            return values
        sent = values.to(self.device(values.device), copy=True).contiguous()
        dist.broadcast(sent, group=self.group, group_src=0)
        return sent.to(values.device)


def ranks_of(coupling: Any) -> Ranks:
    """Who shares the pools of a coupling, which may be wrapped in others."""
    paired: Any = unwrap(coupling)[1]
    return paired.ranks() if hasattr(paired, "ranks") else Ranks()


def check_share(
    x: Tensor, noise: Tensor, labels: Tensor | None, generator: torch.Generator | None, ranks: Ranks
) -> None:
    """Checks what a rank brings to a pool, values too. It may have no data where others do."""
    check_inputs(x, noise, labels, generator, least=int(ranks.size == 1))
    with full_float32(x.device):
        finite_norms(x, noise)


def check_first(
    coupling: Any, x: Tensor, noise: Tensor, labels: Tensor | None, generator: torch.Generator | None
) -> None:
    """Checks the inputs of what wraps a coupling; all ranks that share its pools must call it.

    Raises:
        InputError: If the input is wrong, or that of another rank is. None of them may then wait for that one.
    """
    ranks = ranks_of(coupling)
    if ranks.size == 1:
        check_inputs(x, noise, labels, generator)
    else:
        together(ranks, lambda: check_share(x, noise, labels, generator, ranks))


def together(ranks: Ranks, act: Callable[[], T]) -> T:
    """Does something that may fail on one rank, and fails on all if it does; all ranks must call it.

    Raises:
        InputError: If it failed on another rank.
    """
    if ranks.size == 1:
        return act()
    try:
        result = act()
    except Exception:
        ranks.facts([1])
        raise
    fail_with_others([wrong for (wrong,) in ranks.facts([0])])
    return result


def fail_with_others(wrong: list[int]) -> None:
    """Raises if one of the ranks was given wrong input."""
    for rank, failed in enumerate(wrong):
        if failed:
            raise InputError(f"rank {rank} of the pool was given wrong input: its own message says what.")


def _padded(rows: Tensor, count: int) -> Tensor:
    """Rows followed by zeros, so that all ranks send as much."""
    if len(rows) == count:
        return rows.contiguous()
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])


def note_pool(ranks: Ranks, count: int) -> None:
    """Logs once how large a pool over several ranks is, or warns once that it is not over several."""
    if ranks.size == 1:
        _note_alone(count)
    elif ranks.rank == 0:
        note_once(GLOBAL, logging.INFO, f"one assignment over {count} data of {ranks.size} ranks together.")


def _note_alone(count: int) -> None:
    """Warns once in the log if several ranks pair their own batches each."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 and dist.get_rank() == 0:
        size = dist.get_world_size()
        message = (
            f'each of {size} ranks pairs its own {count} data: LinearAssignment(pool="global") pairs all '
            f"{size * count} together."
        )
        note_once(ALONE, logging.WARNING, message)


def note_single(ranks: Ranks, alone: int, count: int) -> None:
    """Warns once in the log if most of the data of the first pool have no other to change noises with.

    Arguments:
        ranks: Who shares the pool.
        alone: How many data are the only ones of their shape or class, or of the pool.
        count: The data of the pool.
    """
    if 2 * alone <= count:
        # The last batch of a pass may be small without being a mistake.
        leave_unnoted(SINGLE)
    elif ranks.rank == 0:
        what = "an assignment of one datum, or of one datum in each class, leaves all noise as it is drawn"
        if alone < count:
            what = f"{alone} of {count} data are alone in their class or shape, and keep their noise as it is drawn"
        message = f"{what}: pair more at once with immiscible.Pool, or take KNN(k=4), which needs no batch."
        note_once(SINGLE, logging.WARNING, message)


def note_same(ranks: Ranks, pair: tuple[int, int]) -> None:
    """Warns once that two ranks brought the same data."""
    if ranks.rank == 0:
        message = (
            f"ranks {pair[0]} and {pair[1]} of the pool brought the same data: each should read its own part, as a "
            "DistributedSampler or accelerate's `prepare` makes it."
        )
        note_once(SAME, logging.WARNING, message)


def leave_untold() -> None:
    """Leaves all this unsaid, for callers that say themselves how they pool."""
    leave_unnoted(GLOBAL, ALONE, SINGLE, SAME)
