"""The most memory that the tensors made within a call hold at any time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def most_memory(function: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """The most memory of tensors made within a call, in bytes, its result included and what was there before left out.

    On CUDA it is what torch's allocator has given out. Elsewhere storages are counted after each operation that
    Python asks for; what lives only within one, or in the memory of another library, such as the solver of an
    assignment, is not seen.

    Arguments:
        function: The call.
        device: Where it makes its tensors.

    Example:
        >>> x = torch.zeros(1000)
        >>> most_memory(lambda: (x + 1) + 1)
        8000
    """
    device = torch.device(device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    with _Counting() as counting:
        function()
    return counting.most


class _Counting(TorchFunctionMode):
    """Adds up the storages of the tensors that are alive after each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        # The tensors made here, with where their memory begins and its size; views of one share it.
        self.made: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.made = {key: entry for key, entry in self.made.items() if entry[0]() is not None}
        ours = {place for _, place, _ in self.made.values()}
        # The memory of what an operation is given, and was not made here, was there before.
        given = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))} - ours
        for tensor in _tensors(result):
            memory = tensor.untyped_storage()
            if memory.data_ptr() not in given:
                self.made[id(tensor)] = weakref.ref(tensor), memory.data_ptr(), memory.nbytes()
        held = {place: size for _, place, size in self.made.values()}
        self.most = max(self.most, sum(held.values()))
        return result


def _tensors(values: Any) -> Iterator[Tensor]:
    """All tensors among what is given to an operation, or comes of it."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors(tuple(values.values()))
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)
