r"""The drift of the noise law: how far the noise that training sees is from N(0, I), which sampling starts from.

A coupling with an exact marginal has :math:`E|n|^2 / D = 1` and a mean of zero over the data. KNN shrinks the first and
moves the second towards the data's mean (see the theory page).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch

from immiscible.couplings import Coupling
from immiscible.couplings.spaces import given
from immiscible.errors import InputError
from immiscible.seeds import generator
from immiscible.training.data_order import DataOrder
from immiscible.training.sources import Points, condition_of

# A drift counts from five standard errors on, and from half a per cent of the norm.
STANDARD_ERRORS = 5.0
LEAST_NORM_DRIFT = 0.005
# Noise whose square norm is off by more than this factor is no noise, where its law is claimed to be exact.
MOST_OFF = 2.0
# The seed of the data order and the noise, for every run alike.
SEED = 0


@dataclass(frozen=True)
class Drift:
    r"""How far the coupled noise is from standard normal.

    Attributes:
        norm_ratio: The mean of :math:`|n|^2 / D`; 1 for standard normal noise.
        mean_shift: The root mean square of the mean noise, :math:`|\bar n| / \sqrt D`; 0 but for its floor.
        expected_mean_shift: The floor of ``mean_shift``, :math:`1 / \sqrt M` for M noises.
        norm_error: The standard error of ``norm_ratio``.
    """

    norm_ratio: float
    mean_shift: float
    expected_mean_shift: float
    norm_error: float

    @property
    def biased(self) -> bool:
        """Whether the drift is more than chance."""
        norm = abs(self.norm_ratio - 1)
        return (norm > max(LEAST_NORM_DRIFT, STANDARD_ERRORS * self.norm_error)) or (
            self.mean_shift > 2 * self.expected_mean_shift
        )

    def warning(self) -> str | None:
        """What a biased coupling does to the noise, in one line; None if it does nothing."""
        if not self.biased:
            return None
        return (
            f"the noise law drifts: E|n|^2/D = {self.norm_ratio:.3f} (1 is exact), mean shift {self.mean_shift:.3f} "
            f"per dimension (chance gives {self.expected_mean_shift:.3f}): training sees other noise than sampling."
        )

    def check(self, coupling: str, exact: bool) -> None:
        """Checks that the noise is anything like noise, before it is trained on.

        Arguments:
            coupling: What paired it, for the error.
            exact: Whether the law of the noise is claimed to be exact. Others may shrink it as far as they do.

        Raises:
            InputError: If its square norm is not finite, or off by more than a factor of two where it must not be.
        """
        finite = all(math.isfinite(value) for value in self.as_dict().values())
        if finite and (not exact or 1 / MOST_OFF <= self.norm_ratio <= MOST_OFF):
            return
        raise InputError(
            f"the noise that {coupling} pairs must be standard normal, got E|n|^2/D = {self.norm_ratio:.3g}, "
            "not 1: nothing was trained; try another --cost-space, such as centered, or another --coupling."
        )

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@torch.no_grad()
def measure_drift(
    coupling: Coupling,
    data: Points,
    *,
    scale: float = 1.0,
    batch_size: int = 256,
    batches: int = 32,
    labelled: bool = False,
) -> Drift:
    """Measures the drift of a coupling on batches as training would draw them.

    Arguments:
        coupling: The coupling.
        data: The data.
        scale: What training multiplies the data by.
        batch_size: The data paired at once.
        batches: How many batches to draw.
        labelled: Whether the coupling is given the labels.
    """
    order = DataOrder(len(data), batch_size, SEED)
    total = torch.zeros(data.shape, dtype=torch.float64)
    norms = []
    for step in range(batches):
        index = order.batch(step)
        x, labels = data.batch(index)
        here = given(coupling, condition_of(data, index))
        draws = generator("cpu", SEED, "drift", step)
        noise = torch.randn(x.shape, generator=draws)
        noise = here(x * scale, noise, labels=labels if labelled else None, generator=draws)
        total += noise.double().sum(0)
        norms.append(noise.flatten(1).double().square().mean(1))
    ratios = torch.cat(norms)
    count = len(ratios)
    shift = (total / count).square().mean().sqrt().item()
    error = (ratios.std() / count**0.5).item()
    return Drift(ratios.mean().item(), shift, count**-0.5, error)
