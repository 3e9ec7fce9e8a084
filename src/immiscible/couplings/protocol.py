r"""What every coupling shares: the protocol, the checks of the inputs, and the coupling that leaves everything alone.

A coupling decides *which noise goes with which datum*. It is called after the noise :math:`n \sim N(0, I)` is drawn
and before the noisy point :math:`x_t` is built, and what it returns is both the noise to diffuse with and the noise
that the regression target is made of. The data is never moved, so labels, masks, prompts and weights stay right.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar, ParamSpec, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from immiscible.couplings.log import note_once
from immiscible.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

# Since 2.9 torch keeps the precision of float32 products per backend. Once set there, the older interface raises.
PER_BACKEND = hasattr(torch.backends, "fp32_precision")
BACKENDS: tuple[Any, ...] = (torch.backends.cuda.matmul, cast(Any, torch.backends.mkldnn).matmul) if PER_BACKEND else ()
FULL = frozenset({"none", "ieee", "highest"})
# Minus the logarithm of a chance that no run is long enough to meet.
UNLIKELY = 40
# What is logged once: that the noise is not normal.
ABNORMAL = "abnormal"


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
            x: The data, with shape :math:`(B, *)` and a real floating dtype. Read only to rank. It comes first:
                swapped with the noise it would be moved, and nothing would show it.
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


@runtime_checkable
class Wrapper(Protocol):
    """A coupling around another.

    What else a pool has to know of it, since it pairs ahead, are its attributes: ``p``, the share of pools in which it
    couples, and ``space``, the :class:`~immiscible.couplings.spaces.Space` that it ranks in. One that has neither is
    not taken into pools. It may do nothing beside these two.
    """

    @property
    def inner(self) -> Coupling:
        """The coupling that it is around."""
        ...

    def with_inner(self, inner: Coupling) -> Coupling:
        """The same around another coupling."""
        ...


def unwrap(coupling: Coupling) -> tuple[list[Wrapper], Coupling]:
    """What is around a coupling, the outermost first, and the coupling itself."""
    wrappers: list[Wrapper] = []
    while isinstance(coupling, Wrapper):
        wrappers.append(coupling)
        coupling = coupling.inner
    return wrappers, coupling


def wrap(wrappers: list[Wrapper], coupling: Coupling) -> Coupling:
    """A coupling within the same as another was, see :func:`unwrap`."""
    for wrapper in reversed(wrappers):
        coupling = wrapper.with_inner(coupling)
    return coupling


@runtime_checkable
class Permuting(Protocol):
    """A coupling that moves whole noises, and says where to. Pools need it, since they pair ahead.

    Where it pairs what several processes hand in, ``ranks()`` says which; without it each process pairs its own.
    """

    def order(
        self, x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """The place of the noise of each datum, ``int64`` with shape (B,); the arguments are those of a coupling."""
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


def check_inputs(
    x: Tensor, noise: Tensor, labels: Tensor | None, generator: torch.Generator | None, least: int = 1
) -> None:
    """Checks all of the inputs that is known without reading their values; there are at least ``least`` data."""
    for name, tensor in (("x", x), ("noise", noise)):
        check_plain(tensor, name)
    if x.shape != noise.shape:
        raise InputError(
            f"`x` and `noise` must have the same shape, got {tuple(x.shape)} and {tuple(noise.shape)}: "
            "draw the noise with `torch.randn_like(x)`."
        )
    if x.ndim == 0 or len(x) < least or 0 in x.shape[1:]:
        raise InputError(f"`x` must have shape (B, *) with at least one element, got {tuple(x.shape)}.")
    if x.device != noise.device:
        raise InputError(f"`x` and `noise` must be on the same device, got {x.device} and {noise.device}.")
    if labels is not None:
        check_labels(labels, len(x))
    if generator is not None:
        check_generator(generator, x.device)
    for name, tensor in (("x", x), ("noise", noise), ("labels", labels)):
        if tensor is not None:
            check_values(tensor, name)


def check_plain(tensor: Tensor, name: str) -> None:
    """Checks that this is a dense tensor of real floating numbers, and says how to make one of what it is."""
    check_dense(tensor, name)
    if not tensor.is_floating_point():
        raise InputError(
            f"`{name}` must have a real floating dtype, got {tensor.dtype}: convert images with `x.float()` first."
        )
    if tensor.dtype.itemsize < 2:
        raise InputError(f"`{name}` must have a dtype of 16 bits or more, got {tensor.dtype}: use `{name}.float()`.")


def check_dense(tensor: Tensor, name: str) -> None:
    """Checks that this is a tensor of one shape that has all its values in memory."""
    if not isinstance(tensor, Tensor):
        raise InputError(f"`{name}` must be a torch.Tensor, got {type(tensor).__name__}{_remedy(tensor)}.")
    if tensor.is_nested:
        raise InputError(
            f"`{name}` must be a tensor of one shape, got a nested one: couple `{name}.to_padded_tensor(0.0)` and "
            "noise of its shape, and leave out the padding afterwards."
        )
    if tensor.is_quantized or tensor.layout != torch.strided:
        given, dense = (tensor.dtype, "dequantize") if tensor.is_quantized else (tensor.layout, "to_dense")
        raise InputError(f"`{name}` must be a dense tensor, got {given}: use `{name}.{dense}()`.")


def _remedy(given: Any) -> str:
    """How to make tensors of what is handed in for one, where there is a way."""
    if isinstance(given, PackedSequence):
        return ": couple what `torch.nn.utils.rnn.pad_packed_sequence` makes of it"
    if isinstance(given, Sequence) and given and all(isinstance(part, Tensor) for part in given):
        return " of tensors: couple those of each shape by themselves, stacked, or pad all to one shape"
    return ": use `torch.from_numpy`" if type(given).__module__ == "numpy" else ""


def check_values(tensor: Tensor, name: str) -> None:
    """Checks that there are numbers in it. Fake tensors name a real device, but their memory is on the meta device."""
    # A wrapper of torch.func has no memory of its own.
    with suppress(NotImplementedError):
        if tensor.untyped_storage().device.type == "meta":
            raise InputError(
                f"`{name}` must hold values, since couplings read them, got a tensor of the meta device or of a fake "
                "mode: call couplings on real data."
            )


def check_labels(labels: Tensor, batch: int) -> None:
    """Checks that there is one integer label for each datum."""
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(f"`labels` must be an integer tensor, got {given}: use `labels.long()`.")
    if labels.is_nested or labels.is_quantized or labels.layout != torch.strided:
        raise InputError(f"`labels` must be a dense integer tensor, got {labels.layout} of {labels.dtype}.")
    if labels.shape != (batch,):
        raise InputError(f"`labels` must have shape ({batch},), one per datum, got {tuple(labels.shape)}.")


def check_generator(generator: torch.Generator, device: torch.device) -> None:
    """Checks that the generator lives where the data does."""
    if isinstance(generator, Tensor) or not isinstance(getattr(generator, "device", None), torch.device):
        raise InputError(
            f"`generator` must be a torch.Generator, got {type(generator).__name__}: make it with "
            f'`torch.Generator("{device}").manual_seed(0)`.'
        )
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


def note_unless_normal(norms: Tensor, dims: int, what: str) -> None:
    """Warns once in the log if noise cannot be standard normal, by its mean square.

    Arguments:
        norms: The norms of the noise, with shape (B,).
        dims: The dimension of one noise.
        what: What needs it to be.
    """
    count = len(norms) * dims
    total = norms.dot(norms).item()
    least, most = normal_bounds(count)
    if math.isfinite(total) and not least <= total <= most:
        message = (
            f"{what} is for standard normal noise, whose E|n|^2/D is 1, got noise with {total / count:.3g}: hand in "
            "what torch.randn draws, before it is scaled or changed; between two data sets take LinearAssignment."
        )
        note_once(ABNORMAL, logging.WARNING, message)


def normal_bounds(count: int) -> tuple[float, float]:
    r"""Between what the sum of this many squared normals lies, but for a chance of 1e-17.

    It is :math:`\chi^2_N`, and outside of :math:`[N - 2\sqrt{Nt},\; N + 2\sqrt{Nt} + 2t]` with probability
    :math:`2 e^{-t}` at most (Laurent and Massart, 2000).
    """
    margin = 2 * math.sqrt(count * UNLIKELY)
    return count - margin, count + margin + 2 * UNLIKELY


def check_finite(tensor: Tensor, norms: Tensor, name: str) -> None:
    """Raises if one of the norms is not finite, and says how many and why."""
    broken = int((~norms.isfinite()).sum())
    if broken:
        what = "values too large for float32" if bool(tensor.isfinite().all()) else "NaN or infinite values"
        raise InputError(f"`{name}` must be finite, got {what} in {broken} of {len(norms)} rows: check the data.")


@dataclass(frozen=True)
class Independent:
    """The vanilla coupling: noise independent of the data, returned as it came."""

    moves: ClassVar[str] = "nothing."
    law: ClassVar[str] = "exact."
    cost: ClassVar[str] = "none beyond the check of the inputs, O(B D)."

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
