"""What a run says before its first step: what is trained on what, and what its pairing does to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from immiscible.config.groups import RunConfig
from immiscible.config.systems import system
from immiscible.couplings import parse_coupling
from immiscible.couplings.assignment import LinearAssignment
from immiscible.couplings.parts import parts_of
from immiscible.couplings.solvers.leading import SAMPLE, held_share
from immiscible.couplings.solvers.select import Method, because, by_size, by_variance, name
from immiscible.errors import shown
from immiscible.tasks.base import Data, PublishedTask
from immiscible.tasks.registry import task_of
from immiscible.training.ema import trained_weights

Ranked = Callable[[int], Tensor]

# How many classes are named, and how long names and captions may be.
FIRST_CLASSES = 5
LONGEST_NAME, LONGEST_CAPTION = 40, 120


@dataclass(frozen=True)
class Pooling:
    """What a run pairs together.

    Attributes:
        micro_batch: The data of a micro-batch on one process.
        micro_batches: The micro-batches of each process that are paired together.
        processes: The processes that share a pool.
        assigned: Whether an assignment pairs; anything else pairs each process' micro-batches one by one.
    """

    micro_batch: int
    micro_batches: int = 1
    processes: int = 1
    assigned: bool = False

    @staticmethod
    def of(config: RunConfig, processes: int) -> Pooling:
        """The pooling of a configuration on this many processes."""
        micro_batch = config.batch_size // config.accumulation // processes
        if parts_of(parse_coupling(config.coupling)) is None:
            return Pooling(micro_batch)
        return Pooling(micro_batch, config.micro_batches_per_pool, processes, assigned=True)

    @property
    def together(self) -> int:
        """The data that are paired together."""
        return self.micro_batch * self.micro_batches * self.processes


def announcement(
    config: RunConfig, task: PublishedTask, data: Data, pooling: Pooling, ranked: Ranked, device: torch.device
) -> list[str]:
    """The lines, the first of which says it all in short.

    Arguments:
        config: The configuration of the run.
        task: Its task.
        data: Its data.
        pooling: What it pairs together.
        ranked: Gives that many of the data, or all, as they are ranked.
        device: Where it trains.
    """
    kind, shape = task_of(config), "x".join(map(str, data.shape))
    first = (
        f"{system(config.task).title} on {data.name} ({len(data)} {kind.unit} of {shape}), "
        f"{kind.network_name(config)} of {trained_parameters(task):,} trained parameters, coupling {config.coupling}, "
        f"{pooling.together} paired at once"
    )
    if not pooling.assigned:
        return [first, *_without_pool(config)]
    notes = kind.notes(config, task.classes, task.grouped, pooling.together)
    return [first, *_on_pools(config, task, pooling, ranked, device), *notes]


def data_line(config: RunConfig, data: Data) -> str:
    """What was found, what was passed over and why, and the first classes and caption: a mistake in them shows here."""
    skipped = ", ".join(f"{count} {reason}" for reason, count in data.skipped.items() if count)
    kind = task_of(config)
    parts = [kind.found(config, data)]
    parts.append(f"passed over: {skipped}" if skipped else "nothing passed over")
    if data.class_names:
        names = ", ".join(shown(name, LONGEST_NAME) for name in data.class_names[:FIRST_CLASSES])
        more = f" and {data.classes - FIRST_CLASSES} more" if data.classes > FIRST_CLASSES else ""
        parts.append(f"{data.classes} class{'es' if data.classes > 1 else ''}: {names}{more}")
    caption = kind.caption(config, data)
    parts += [f"first caption: {shown(caption, LONGEST_CAPTION)}"] if caption is not None else []
    return f"data: {'; '.join(parts)}."


def trained_parameters(task: PublishedTask) -> int:
    """How many parameters of a task are trained."""
    return sum(weight.numel() for weight in trained_weights(task.network).values())


def _without_pool(config: RunConfig) -> list[str]:
    if not config.pool:
        return []
    return [f"--pool {config.pool} changes nothing: it is for assignments, and {config.coupling} is none."]


def _on_pools(
    config: RunConfig, task: PublishedTask, pooling: Pooling, ranked: Ranked, device: torch.device
) -> list[str]:
    """Who shares a pool, and how it is solved."""
    lines, unit = [], task_of(config).unit
    if pooling.micro_batches * pooling.processes > 1:
        where = "in the background" if config.background else "before its first step"
        shared = f" on each of {pooling.processes} processes" if pooling.processes > 1 else ""
        many = f"{pooling.micro_batches} micro-batches" if pooling.micro_batches > 1 else "one micro-batch"
        lines.append(f"a pool is {many} of {pooling.micro_batch} {unit}{shared}, paired as one {where}.")
    parts = parts_of(parse_coupling(config.coupling))
    if parts and isinstance(parts.assignment, LinearAssignment) and parts.assignment.solver == "auto":
        count = pooling.together // (max(task.classes, 1) if task.grouped else 1)
        lines.append(_on_auto(parts.assignment.method, count, unit, ranked, device))
    return lines


def _on_auto(method: Method, count: int, unit: str, ranked: Ranked, device: torch.device) -> str:
    """Which solver ``auto`` takes for pools like a sample of the data. Each pool is measured again."""
    size = ranked(1).shape[1]
    taken, why = by_size(method, count, size, device), ""
    if taken is None:
        held = held_share(ranked(2 * SAMPLE))
        taken, why = by_variance(method, held), because(held)
    return f"solver auto takes {name(taken)} for {count} {unit} of {size} values{why}."
