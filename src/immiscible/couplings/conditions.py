r"""Conditions in the cost of an assignment: noise moves between data of near conditions.

An assignment that knows no condition gives noise to whom it suits, so noise tells the condition, which misleads a
conditional model at sampling. Within classes it does no such harm; for continuous conditions :math:`c` C2OT (arXiv
2503.10636) adds their distance to the cost, where :math:`c_j` is the condition of the datum that noise :math:`j` was
drawn beside:

.. math:: \pi^\star = \arg\min_{\pi \in S_N} \sum_i |x_i - n_{\pi(i)}|^2 + w\, |c_i - c_{\pi(i)}|^2

This is the assignment of :math:`[x, \sqrt w\, c]` to :math:`[n, \sqrt w\, c]`, so one matrix product is still all the
cost there is. For classes, as rows of ones and zeros, and a large weight it is the assignment within classes.

**The weight** is found from data. It *keeps* a noise :math:`j \ne i` from datum :math:`i` if then it is no nearer to it
than its own,

.. math:: |x_i - n_j|^2 + w\, |c_i - c_j|^2 > |x_i - n_i|^2 ,

and C2OT asks for the weight that leaves a set share of all pairs. Of each pair it is known beyond which weight it is
kept, so the weight for a share is a quantile of these. Without a weight, half of all pairs are kept. Pairs of one
condition never are, so where many data share theirs not every share can be reached; then no noise moves between
conditions.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from immiscible.couplings.protocol import check_plain, full_float32, rows
from immiscible.couplings.residuals import (
    NO_CONDITION,
    Conditioned,
    check_count,
    check_datum,
    check_numbers,
    check_pairs,
    chunks,
    for_batch,
)
from immiscible.errors import InputError
from immiscible.seeds import generator

# The share of pairs that the condition keeps apart. C2OT's released code has 0.8 for captions (`target_r: 0.2`), at
# which noise still told a fifth of what it tells without a condition; at 0.9 it told next to nothing.
SHARE = 0.9
# A weight is fitted to this many data at least, if there are as many, and at most to twice as many.
SAMPLE = 1024
# Squares of distances below this share of their mean are rounding.
SAME = 1e-9
# Where data of one condition alone are too many for a share: this times the weight that keeps all other pairs apart,
# since noise might still go in circles.
STRICT = 4.0


@dataclass(frozen=True, eq=False)
class ConditionSpace:
    r"""Data with their conditions beside them, and noise with those that it was drawn beside.

    Source: C2OT, arXiv 2503.10636, see :mod:`immiscible.couplings.conditions`. It is for assignments, which move noise
    from one datum to another.

    Attributes:
        weight: The weight of a squared distance of conditions, ``float32`` as all of them, with shape ().
        mean: The mean of the condition, with shape (c,).
        centre: The mean of the data, with the shape of one.
        condition: The condition of each datum of a batch, with shape (B, \*), or None before :meth:`given`.

    Example:
        >>> from immiscible import InSpace, LinearAssignment
        >>> actions, observations = torch.randn(64, 16, 2), torch.randn(64, 10)
        >>> space = ConditionSpace.fit(actions, observations)
        >>> x, condition = actions[:8], observations[:8]
        >>> noise = InSpace(LinearAssignment(), space.given(condition))(x, torch.randn_like(x))
    """

    name: ClassVar[str] = "condition"
    # All that data and noise are is compared.
    is_coarse = False
    trivial = False

    weight: Tensor
    mean: Tensor
    centre: Tensor
    condition: Tensor | None = None

    @classmethod
    def fit(
        cls, x: Tensor | Conditioned, condition: Tensor | None = None, share: float = SHARE, seed: int = 0
    ) -> ConditionSpace:
        r"""Finds the weight, and the means.

        Arguments:
            x: All data, or a large sample, with shape (N, \*); or data with a method ``pairs``, see
                :class:`~immiscible.couplings.residuals.Conditioned`, where they are too many for the memory.
            condition: The condition of each, floating numbers with shape (N, \*), which count by their variance; none
                beside ``pairs``.
            share: The share of pairs that the condition is to keep apart, between 0 and 1.
            seed: The seed of the noise that the weight is found with.

        Raises:
            InputError: If there is no condition, or not one for each datum, or something is not finite.
        """
        check_share(share)
        sums: list[Tensor] = []
        sample = _Sample()
        for data, given in chunks(x, condition, "condition"):
            check_pairs(data, given)
            pair = data, rows(given)
            sums = sums or [part.new_zeros(part.shape[1:], dtype=torch.float64) for part in pair]
            for total, part in zip(sums, pair, strict=True):
                total += part.double().sum(0)
            sample.add(*pair)
        if not sample.count:
            raise InputError("the cost space condition needs at least one datum, got none.")
        centre, mean = ((total / sample.count).float().cpu() for total in sums)
        points = rows(sample.x - centre)
        noise = torch.randn(points.shape, generator=generator("cpu", seed, "condition weight"))
        weight = weight_of(points, noise, sample.condition - mean, share)
        return cls(torch.tensor(weight), mean, centre)

    def given(self, condition: Tensor | None) -> ConditionSpace:
        r"""The space for a batch.

        Arguments:
            condition: The condition of each datum of the batch, with shape (B, \*), on the device of the space.

        Raises:
            InputError: If it is none, has another number of values than the conditions that the space was fitted to,
                is not finite, or is on another device.
        """
        return dataclasses.replace(self, condition=for_batch(condition, self.mean, "condition"))

    def ranked(self, x: Tensor) -> Tensor:
        """Data minus their mean; their condition stands :meth:`beside` them."""
        check_datum(x, self.centre)
        if self.condition is not None:
            check_count(x, self.condition)
        return x - self.centre

    def beside(self) -> Tensor:
        """What stands beside each datum, and beside the noise drawn for it, with shape (B, c).

        Raises:
            InputError: If there is no condition.
        """
        if self.condition is None:
            raise InputError(NO_CONDITION.format("condition"))
        return weighted(self.condition, self.mean, float(self.weight))

    def coarse(self, noise: Tensor) -> Tensor:
        """The noise: all of it is ranked."""
        return noise

    def replaced(self, noise: Tensor, chosen: Tensor) -> Tensor:
        """What was chosen."""
        return chosen

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that it was fitted to, by their names."""
        return {name: getattr(self, name) for name in ("weight", "mean", "centre")}

    def to(self, device: torch.device | str) -> ConditionSpace:
        """The same space on a device."""
        return ConditionSpace(**{name: value.to(device) for name, value in self.tensors().items()})


class _Sample:
    """Pairs evenly spaced among those that are handed in one chunk after the other, in bounded memory."""

    def __init__(self) -> None:
        self.count, self._every = 0, 1

    def add(self, x: Tensor, condition: Tensor) -> None:
        """Takes some of a chunk."""
        places = slice(-self.count % self._every, None, self._every)
        new = [part[places].float().cpu() for part in (x, condition)]
        old = [self.x, self.condition] if self.count else [part[:0] for part in new]
        self.x, self.condition = map(torch.cat, zip(old, new, strict=True))
        self.count += len(x)
        while len(self.x) > 2 * SAMPLE:
            self.x, self.condition, self._every = self.x[::2].clone(), self.condition[::2].clone(), 2 * self._every


@torch.no_grad()
def weight_of(x: Tensor, noise: Tensor, condition: Tensor, share: float = SHARE) -> float:
    """The weight at which the condition keeps a share of the pairs apart, see this module's description.

    Arguments:
        x: Data, minus their mean, with shape (B, D).
        noise: The noise beside each, with shape (B, D).
        condition: The condition of each, with shape (B, c).
        share: The share.
    """
    if len(x) < 2:
        return 0.0
    with full_float32(x.device):
        nearer = noise.square().sum(1) - 2 * (x @ noise.T)
    gain = (nearer.diagonal()[:, None] - nearer).double()
    condition = condition.double() - condition.double().mean(0)
    squares = condition.square().sum(1)
    apart = squares[:, None] + squares - 2 * condition @ condition.T
    # Beyond this weight a pair is kept apart.
    last = torch.where(apart > SAME * 2 * squares.mean(), gain / apart, torch.where(gain >= 0, math.inf, -math.inf))
    # All pairs of two: the first column, and after it all but the diagonal.
    last = last.flatten()[1:].view(len(x) - 1, len(x) + 1)[:, :-1].flatten()
    found = last.kthvalue(max(1, math.ceil(share * len(last)))).values.item()
    if found == math.inf:
        finite = last[last.isfinite()]
        found = STRICT * finite.max().item() if len(finite) else 0.0
    return max(found, 0.0)


def weight_and_mean(x: Tensor, noise: Tensor, condition: Tensor, weight: float | None) -> Tensor:
    r"""The weight for a batch, and the mean of its conditions, with shape (1 + c,).

    Arguments:
        x: The data, with shape (B, \*).
        noise: The noise beside each, with the shape of ``x``.
        condition: The condition of each, with shape (B, \*).
        weight: The weight, or None for one that is found.

    Raises:
        InputError: If the condition does not fit the data, or the weight is out of range.
    """
    check_plain(condition, "condition")
    check_count(x, condition)
    check_numbers(condition, "condition")
    if condition.device != x.device:
        raise InputError(f"`condition` must be on the device of `x`, {x.device}, got {condition.device}.")
    mean = rows(condition).float().mean(0) if len(x) else rows(condition).float().sum(0)
    if weight is None:
        data, drawn, given = (rows(part[: 2 * SAMPLE]).float() for part in (x, noise, condition))
        weight = weight_of(data - data.mean(0), drawn, given) if len(x) else 0.0
    elif isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise InputError(f"`condition_weight` must be a finite number of at least 0, got {weight!r}.")
    return torch.cat([mean.new_tensor([weight]), mean])


def weighted(condition: Tensor, mean: Tensor, weight: float) -> Tensor:
    """Conditions as they stand beside data and noise, with shape (B, c)."""
    return (rows(condition).float() - mean) * math.sqrt(weight)


def accompany(values: Tensor, beside: Tensor) -> Tensor:
    """Data or noise with what stands beside each, with shape (B, D + c), exact for all floating dtypes."""
    values = rows(values)
    wide = torch.promote_types(values.dtype, beside.dtype)
    return torch.cat([values.to(wide), beside.to(wide)], 1)


def alone(values: Tensor, like: Tensor) -> Tensor:
    """Values without what stands beside them, in the shape and dtype of others."""
    return values[:, : rows(like).shape[1]].reshape(like.shape).to(like.dtype)


def check_share(share: Any) -> None:
    """Checks that this is a share that some weight may have."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise InputError(f"`share` must be between 0 and 1, got {share!r}: try {SHARE}.")
