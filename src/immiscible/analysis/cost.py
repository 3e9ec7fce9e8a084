"""What a coupling costs for each batch, in time and in memory, beside drawing the noise.

Each call has noise of its own, since the time of an assignment depends on it. Of a coupling that is mixed both kinds of
batches are timed, and weighted by their shares; its memory is that of the batches that are coupled.
"""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from immiscible.analysis.batches import Batches
from immiscible.analysis.memory import most_memory
from immiscible.analysis.sampling import Data, Progress
from immiscible.couplings import Coupling, Independent, Mixed, parse_coupling
from immiscible.couplings.protocol import unwrap, wrap
from immiscible.errors import InputError
from immiscible.seeds import generator

# The calls timed at least, however long they take.
FEWEST = 3


@dataclass(frozen=True)
class Cost:
    """What pairing one batch costs, on one machine.

    Attributes:
        coupling: The spelling of the coupling.
        milliseconds: The time of a batch, the median of the calls; of a mixed coupling the mean over its batches.
        coupled_milliseconds: The median over batches that are coupled.
        noise_milliseconds: The time of drawing the noise, the median of as many calls.
        peak_bytes: The most memory that tensors hold beside the data and the noise that is handed in; what solvers
            hold outside of torch is not seen.
        noise_bytes: The memory of the noise.
        calls: How many calls were timed.
        batch_size: The data paired at once.
        dims: The dimension D.
        threads: The threads of torch.
        device: Its name.
    """

    coupling: str
    milliseconds: float
    coupled_milliseconds: float
    noise_milliseconds: float
    peak_bytes: int
    noise_bytes: int
    calls: int
    batch_size: int
    dims: int
    threads: int
    device: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def cost(
    data: Data,
    coupling: str | Coupling,
    batches: Batches | None = None,
    *,
    seconds: float = 2.0,
    progress: Progress | None = None,
) -> Cost:
    r"""Measures what pairing a batch costs, where the data are and on torch's threads.

    Arguments:
        data: The data, with shape (N, \*), in memory or mapped from a file.
        coupling: The coupling, or a spelling.
        batches: The size of the batch, the labels that the coupling is given, and how many calls to time at most.
        seconds: After which no further call is begun, once there are three.
        progress: Called with how many calls are done, and how many there are at most.

    Raises:
        InputError: If the input is not as it should be.

    Example:
        >>> found = cost(torch.zeros(64, 3, 8, 8), "independent", Batches(5, 32))
        >>> found.noise_bytes, found.milliseconds > 0
        (24576, True)
    """
    coupling, batches = parse_coupling(coupling), batches or Batches()
    if not 0 <= seconds < math.inf:
        raise InputError(f"`seconds` must be finite and not negative, got {seconds!r}.")
    share, always = _always(coupling)
    pairing = _Pairing.of(data, always, batches)
    noise, coupled, plain = [], [], []
    end = time.perf_counter() + seconds
    most = max(batches.count, FEWEST)
    for number in range(most):
        drawn, paired = pairing.call(always, number)
        noise.append(drawn)
        coupled.append(paired)
        plain.append(pairing.call(Independent(), number)[1] if share < 1 else 0.0)
        if progress is not None:
            progress(number + 1, most)
        if number + 1 >= FEWEST and time.perf_counter() > end:
            break
    each = statistics.median(coupled)
    x = pairing.x
    return Cost(
        coupling=str(coupling),
        milliseconds=share * each + (1 - share) * statistics.median(plain),
        coupled_milliseconds=each,
        noise_milliseconds=statistics.median(noise),
        peak_bytes=pairing.memory(always),
        noise_bytes=x.numel() * x.element_size(),
        calls=len(coupled),
        batch_size=len(x),
        dims=x[0].numel(),
        threads=torch.get_num_threads(),
        device=_name(x.device),
    )


def _always(coupling: Coupling) -> tuple[float, Coupling]:
    """The share of batches that are coupled, and the coupling without the coin."""
    wrappers, inner = unwrap(coupling)
    share = math.prod(wrapper.p for wrapper in wrappers if isinstance(wrapper, Mixed))
    return share, wrap([wrapper for wrapper in wrappers if not isinstance(wrapper, Mixed)], inner)


@dataclass(frozen=True, eq=False)
class _Pairing:
    """A batch that is paired again and again.

    Attributes:
        x: The data.
        labels: Their classes, where the coupling is given them.
        seed: The seed of the noise.
    """

    x: Tensor
    labels: Tensor | None
    seed: int

    @classmethod
    def of(cls, data: Data, coupling: Coupling, batches: Batches) -> _Pairing:
        """The first batch, paired once to see that all is as it should be; the first call of anything is slower."""
        one = Batches(1, batches.size, batches.labels, batches.seed)
        pair = next(one.paired(data, coupling))
        labels = None if one.labels is None else one.labels[pair.index.to(one.labels.device)].to(pair.x.device)
        return cls(pair.x, labels, one.seed)

    def call(self, coupling: Coupling, number: int) -> tuple[float, float]:
        """The milliseconds of drawing noise and of pairing it."""
        draws = generator(self.x.device, self.seed, "cost", number)
        took, noise = self._timed(lambda: torch.randn(self.x.shape, generator=draws, **self._like))
        return took, self._timed(lambda: coupling(self.x, noise, labels=self.labels, generator=draws))[0]

    def memory(self, coupling: Coupling) -> int:
        """The most memory of a call."""
        draws = generator(self.x.device, self.seed, "cost of memory")
        noise = torch.randn(self.x.shape, generator=draws, **self._like)
        return most_memory(lambda: coupling(self.x, noise, labels=self.labels, generator=draws), self.x.device)

    @property
    def _like(self) -> dict[str, Any]:
        return {"dtype": self.x.dtype, "device": self.x.device}

    def _timed(self, function: Callable[[], Tensor]) -> tuple[float, Tensor]:
        self._wait()
        begin = time.perf_counter()
        result = function()
        self._wait()
        return 1e3 * (time.perf_counter() - begin), result

    def _wait(self) -> None:
        """CUDA answers before it is done."""
        if self.x.device.type == "cuda":
            torch.cuda.synchronize(self.x.device)


def _name(device: torch.device) -> str:
    """What is computed on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()})"
