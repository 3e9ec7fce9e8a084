"""A way in for loops that hide their noise: the draw inside a block of code is coupled where it happens.

Some trainers draw the noise deep inside a loss, with no argument to hand it in by. Inside of
``with coupled(coupling, x):`` every standard normal tensor in the shape of ``x`` is noticed as torch makes it, and one
of them is the noise: its values are coupled with ``x`` in place, before the loop sees them. So the noisy point and the
target are made of the same noise, the stream of random numbers is that of the loop alone, and with
:class:`~immiscible.Independent` nothing changes at all.

Torch functions are noticed through :class:`torch.overrides.TorchFunctionMode`, in the thread that entered the block.
What a compiled graph draws goes by unnoticed, and is an error at the end of the block like any noise that never came.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from immiscible.couplings.distributed.ranks import check_first
from immiscible.couplings.parsing import parse_coupling
from immiscible.couplings.protocol import Coupling, eager
from immiscible.errors import InputError

# What makes normal tensors, and the places of the mean and the standard deviation among its arguments.
DRAWS: dict[Any, dict[str, int]] = {
    torch.randn: {},
    torch.randn_like: {},
    torch.normal: {"mean": 0, "std": 1},
    torch.Tensor.normal_: {"mean": 1, "std": 2},
    torch.nn.init.normal_: {"mean": 1, "std": 2},
}
STANDARD = {"mean": 0, "std": 1}


class _Here(threading.local):
    """What happens in this thread: the blocks that it is in, and whether one of them is coupling just now."""

    def __init__(self) -> None:
        self.blocks: list[_Block] = []
        self.coupling = False


_here = _Here()


class _Seeing(TorchFunctionMode):
    """Shows a block the normal tensors that torch makes."""

    def __init__(self, block: _Block) -> None:
        super().__init__()
        self._block = block

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in DRAWS and not _here.coupling and isinstance(result, Tensor):
            self._block.notice(result, lambda: _is_standard(func, args, kwargs))
        return result


class _Block:
    """The block of :func:`coupled`. It is no mode itself, since a compiler would enter that without asking it."""

    def __init__(
        self, coupling: Coupling, x: Tensor, labels: Tensor | None, generator: torch.Generator | None, which: int | None
    ) -> None:
        self._coupling, self._x, self._labels, self._generator = coupling, x, labels, generator
        self._which = which
        self._seeing = _Seeing(self)
        self._drawn = 0
        self._others: Counter[str] = Counter()

    @eager
    def __enter__(self) -> None:
        for other in _here.blocks:
            if other is self or (other._x.shape == self._x.shape and (other._which or 0) == (self._which or 0)):
                raise InputError(
                    "a block of `coupled` within another must be for another shape or another draw, got two for the "
                    f"same draw of {_shape(self._x)}: give each its `which`."
                )
        self._drawn = 0
        self._others.clear()
        self._seeing.__enter__()
        _here.blocks.append(self)

    @eager
    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        _here.blocks.remove(self)
        self._seeing.__exit__(kind, *error)
        # What went wrong inside the block is what its author has to see.
        if kind is None and (self._drawn <= (self._which or 0) or (self._drawn > 1 and self._which is None)):
            raise self._miscounted()

    def notice(self, drawn: Tensor, is_standard: Callable[[], bool]) -> None:
        """Couples a normal tensor if it is the noise."""
        if drawn.shape != self._x.shape:
            self._others[_shape(drawn)] += 1
        elif not drawn.is_floating_point():
            self._others["a complex dtype"] += 1
        elif not is_standard():
            self._others["a mean or deviation that is not 0 and 1"] += 1
        else:
            self._drawn += 1
            if self._drawn > 1 and self._which is None:
                raise self._miscounted()
            if self._drawn == (self._which or 0) + 1:
                self._couple(drawn)

    def _couple(self, noise: Tensor) -> None:
        if noise.device != self._x.device:
            raise InputError(
                f"`x` must be on the device that the noise is drawn on, {noise.device}, got it on {self._x.device}: "
                f'hand over `x.to("{noise.device}")`.'
            )
        _here.coupling = True
        try:
            coupled = self._coupling(self._x, noise, labels=self._labels, generator=self._generator)
            if getattr(coupled, "shape", None) != noise.shape:
                given = _shape(coupled) if isinstance(coupled, Tensor) else type(coupled).__name__
                raise InputError(f"a coupling must return noise of {_shape(noise)}, got {given}.")
            with torch.no_grad():
                # In place: what torch returns keeps its memory layout, and `normal_` returns what it was given.
                noise.copy_(coupled)
        finally:
            _here.coupling = False

    def _miscounted(self) -> InputError:
        needed = f"a block of `coupled` must draw standard normal noise of {_shape(self._x)}"
        if self._which is None and self._drawn > 1:
            return InputError(
                f"{needed} once, got {self._drawn} draws: say which is the noise, `which=0` for the first of them."
            )
        times = "once" if not self._which else f"{self._which + 1} times"
        others = ", ".join(f"{count} of {what}" for what, count in self._others.items())
        return InputError(
            f"{needed} {times}, got {self._drawn or 'none'}{', but ' + others if others else ''}: hand over `x` as the "
            "loop adds noise to it, and let torch draw it in this thread, outside of compiled code."
        )


def coupled(
    coupling: str | Coupling,
    x: Tensor,
    *,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
    which: int | None = None,
) -> AbstractContextManager[None]:
    """Couples the noise that a block of code draws, for loops that hide it.

    Inside the block the one standard normal tensor drawn in the shape of ``x`` is coupled with ``x`` as it is drawn, by
    ``torch.randn``, ``torch.randn_like``, ``torch.normal`` or ``Tensor.normal_``. Draws of other shapes are
    left alone. See :mod:`immiscible.couplings.hidden`.

    Arguments:
        coupling: A coupling or its spelling.
        x: The data that the loop adds the noise to, with shape (B, \\*), on the device that the noise is drawn on.
        labels: The class of each datum, with shape (B,), see :class:`LinearAssignment`.
        generator: What the coupling draws from, apart from the noise. By default the global one, whose later draws then
            differ from those of a loop without the block; an exact assignment draws nothing.
        which: Which of several draws in the shape of ``x`` is the noise, 0 for the first. Without it there must be one.

    Raises:
        InputError: If the inputs do not fit together; inside the block at a draw too many or on another device; and at
            its end if the noise was not drawn, unless the block ends in an error of its own.

    Example:
        >>> x = torch.randn(4, 3, 8, 8)
        >>> def loss(x):
        ...     return torch.randn_like(x).sub(x).square().mean()
        >>> with coupled("assignment", x):
        ...     value = loss(x)
    """
    if which is not None and (isinstance(which, bool) or not isinstance(which, int) or which < 0):
        raise InputError(f"`which` must be the number of a draw, 0 for the first, got {which!r}.")
    parsed = parse_coupling(coupling)
    check_first(parsed, x, x, labels, generator)
    return _Block(parsed, x, labels, generator, which)


def _is_standard(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a normal tensor is asked for with mean zero and deviation one, be they numbers or tensors."""
    for name, place in DRAWS[func].items():
        value = kwargs.get(name, args[place] if len(args) > place else STANDARD[name])
        same = value == STANDARD[name]
        if not (same.all() if isinstance(same, Tensor) else same):
            return False
    return True


def _shape(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)}"
