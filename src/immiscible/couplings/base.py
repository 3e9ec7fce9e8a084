r"""What every coupling shares: the protocol, the checks of the inputs, and the coupling that leaves everything alone.

A coupling decides *which noise goes with which datum*. It is called after the noise :math:`n \sim N(0, I)` is drawn
and before the noisy point :math:`x_t` is built, and what it returns is both the noise to diffuse with and the noise
that the regression target is made of. The data is never moved, so labels, masks, prompts and weights stay right.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor

from immiscible.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

# Since 2.9 torch keeps the precision of float32 products per backend. Once set there, the older interface raises.
PER_BACKEND = hasattr(torch.backends, "fp32_precision")
BACKENDS: tuple[Any, ...] = (torch.backends.cuda.matmul, cast(Any, torch.backends.mkldnn).matmul) if PER_BACKEND else ()
FULL = frozenset({"none", "ieee", "highest"})


@runtime_checkable
class Coupling(Protocol):
    """Anything that takes data and as much noise, and says which noise goes with which datum.

    A plain function with this signature is a coupling too.
    """

    def __call__(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Couples the noise with the data.

        Arguments:
            x: The data, with shape :math:`(B, *)` and a real floating dtype. Read only to rank.
            noise: Standard normal noise, with the shape of ``x``, on its device.
            labels: The class of each datum, integers with shape :math:`(B,)`. Only the assignment reads them.
            generator: The source of all randomness, on the device of ``x``. The global one by default.

        Returns:
            The coupled noise, with the shape, dtype and device of ``noise``, without gradient. Where nothing moves
            it may share memory with ``noise``.

        Raises:
            InputError: If the inputs do not fit together, are not finite, or the generator is on another device.
        """
        ...


def eager(function: Callable[P, R]) -> Callable[P, R]:
    """Keeps ``torch.compile`` out of a function that compiled code may call: a clean graph break, eager results.

    The wrapper is made at the first call, since making it imports all of the compiler.
    """
    disabled: Any = functools.cache(torch.compiler.disable)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return disabled(function)(*args, **kwargs)

    return call


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """No gradient, no autocast and no reduced-precision matrix products: bf16 and TF32 are too coarse to rank in."""
    before = _precision()
    coarse = not FULL.issuperset(before)
    try:
        if coarse:
            _set_precision(("ieee",) * len(BACKENDS) or ("highest",))
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        if coarse:
            _set_precision(before)


def _precision() -> tuple[str, ...]:
    """How torch multiplies float32 matrices, on each backend or on all."""
    return tuple(backend.fp32_precision for backend in BACKENDS) or (torch.get_float32_matmul_precision(),)


def _set_precision(precision: tuple[str, ...]) -> None:
    if not BACKENDS:
        torch.set_float32_matmul_precision(*precision)
    for backend, value in zip(BACKENDS, precision, strict=False):
        backend.fp32_precision = value


def rows(tensor: Tensor) -> Tensor:
    """Views a batch as a matrix with shape :math:`(B, D)`, copying only what is not contiguous."""
    return tensor.unsqueeze(1) if tensor.ndim == 1 else tensor.flatten(1)


def row_dims(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions of one datum, to reduce over without copying, whatever the memory layout."""
    return tuple(range(1, tensor.ndim))


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Shapes one value per row so that it broadcasts against a batch with the dimensions of ``like``."""
    return values.view(-1, *(1,) * (like.ndim - 1))


def check_inputs(x: Tensor, noise: Tensor, labels: Tensor | None, generator: torch.Generator | None) -> None:
    """Checks everything about the inputs that can be told without reading their values."""
    for name, tensor in (("x", x), ("noise", noise)):
        if not isinstance(tensor, Tensor):
            raise InputError(f"`{name}` must be a torch.Tensor, got {type(tensor).__name__}.")
        if not tensor.is_floating_point():
            raise InputError(
                f"`{name}` must have a real floating dtype, got {tensor.dtype}: convert images with `x.float()` first."
            )
    if x.shape != noise.shape:
        raise InputError(
            f"`x` and `noise` must have the same shape, got {tuple(x.shape)} and {tuple(noise.shape)}: "
            "draw the noise with `torch.randn_like(x)`."
        )
    if x.ndim == 0 or x.numel() == 0:
        raise InputError(f"`x` must have shape (B, *) with at least one element, got {tuple(x.shape)}.")
    if x.device != noise.device:
        raise InputError(f"`x` and `noise` must be on the same device, got {x.device} and {noise.device}.")
    if labels is not None:
        check_labels(labels, len(x))
    if generator is not None:
        check_generator(generator, x.device)


def check_labels(labels: Tensor, batch: int) -> None:
    """Checks that there is one integer label for each datum."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(f"`labels` must be an integer tensor, got {given}: use `labels.long()`.")
    if labels.shape != (batch,):
        raise InputError(f"`labels` must have shape ({batch},), one per datum, got {tuple(labels.shape)}.")


def check_generator(generator: torch.Generator, device: torch.device) -> None:
    """Checks that the generator lives where the data does."""
    same_index = None in (generator.device.index, device.index) or generator.device.index == device.index
    if generator.device.type != device.type or not same_index:
        raise InputError(
            f"`generator` must be on the device of `x`, {device}, got one on {generator.device}: "
            f'make it with `torch.Generator("{device}")`.'
        )


def finite_norms(x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean norms of the rows of both inputs in float32, each with shape :math:`(B,)`, all of them finite.

    A row holds a NaN or an infinity exactly if its norm does (or if the norm overflows), so this is also the check
    that the values are finite, for the price of a reduction that the ranking needs anyway.
    """
    norms = [_row_norms(x), _row_norms(noise)]
    if not math.isfinite(torch.add(*norms).sum().item()):
        for name, tensor, norm in (("x", x, norms[0]), ("noise", noise, norms[1])):
            check_finite(tensor, norm, name)
    return norms[0], norms[1]


def _row_norms(tensor: Tensor) -> Tensor:
    if tensor.ndim == 1:
        return tensor.to(torch.float32).abs()
    if tensor.dtype == torch.float64:
        # torch accumulates in a wider dtype on request, but refuses a narrower one.
        return torch.linalg.vector_norm(tensor, dim=row_dims(tensor)).to(torch.float32)
    return torch.linalg.vector_norm(tensor, dim=row_dims(tensor), dtype=torch.float32)


def check_finite(tensor: Tensor, norms: Tensor, name: str) -> None:
    """Raises if one of the norms is not finite, and says how many and why."""
    broken = int((~norms.isfinite()).sum())
    if broken:
        what = "values too large for float32" if bool(tensor.isfinite().all()) else "NaN or infinite values"
        raise InputError(f"`{name}` must be finite, got {what} in {broken} of {len(norms)} rows: check the data.")


@dataclass(frozen=True)
class Independent:
    """The vanilla coupling: noise independent of the data, returned as it came.

    *moves*: nothing.
    *marginal*: exact.
    *cost*: none beyond the check of the inputs, O(B D).
    """

    @eager
    def __call__(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Returns the noise, see :class:`Coupling`."""
        check_inputs(x, noise, labels, generator)
        with full_float32(x.device):
            finite_norms(x, noise)
        return noise.detach()

    def __str__(self) -> str:
        return "independent"
