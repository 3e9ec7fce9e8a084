"""Measures two ways of doing the same thing side by side, and the memory that one of them needs."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# glibc returns freed blocks above a threshold to the system, and taking them back costs a page fault per 4 KiB. The
# threshold follows the largest block freed so far, up to this size.
LARGEST_KEPT_BLOCK = 31 * 2**20

# Of all benchmarks of couplings.
THREADS = 2


@dataclass(frozen=True)
class Timing:
    """Milliseconds of ours and of the reference, call by call."""

    ours: list[float]
    reference: list[float]

    @property
    def ratio(self) -> float:
        """The median of the ratios of neighbouring calls, which a slow spell of the machine hits alike."""
        return statistics.median(a / b for a, b in zip(self.ours, self.reference, strict=True))


def side_by_side(
    ours: Callable[[], object], reference: Callable[[], object], repeats: int, budget: float = 30.0
) -> Timing:
    """Times both in turn, A, B, A, B.

    Arguments:
        ours: One call of what is measured.
        reference: One call of what it is compared with.
        repeats: The number of pairs.
        budget: Seconds after which no further pair is started, once there are three.
    """
    settle_allocator()
    for _ in range(2 if _milliseconds(ours) + _milliseconds(reference) < 1000 else 0):
        ours(), reference()
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + budget
    while len(times) < repeats and (len(times) < 3 or time.perf_counter() < end):
        times.append((_milliseconds(ours), _milliseconds(reference)))
    return Timing(*map(list, zip(*times, strict=True)))


def settle_allocator() -> None:
    """Frees one large block, as any training step does, so that page faults do not depend on what ran before."""
    torch.empty(LARGEST_KEPT_BLOCK, dtype=torch.uint8).zero_()


def _milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


class _Live(TorchDispatchMode):
    """Adds up the storages that operations have made and that are still alive, after each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.before: set[int] = set()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        self.live = {key: (ref, size) for key, (ref, size) in self.live.items() if not ref.expired()}
        # What an operation is given and has not been made here was there before.
        self.before |= inputs - self.live.keys()
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _key(leaf) not in self.before:
                storage = leaf.untyped_storage()
                self.live[_key(leaf)] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return result


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def peak_bytes(function: Callable[[], object]) -> int:
    """The most memory that tensors made within the call hold at any time, the result included, in bytes."""
    with _Live() as mode:
        function()
    return mode.peak


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Runs torch on this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> str:
    """One line on what a measurement ran on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    return f"{model}, torch {torch.__version__}, {torch.get_num_threads()} threads"
