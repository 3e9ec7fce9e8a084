r"""The leak: how well the condition of a datum is read from the noise that it is paired with.

A conditional model is trained on noise given the condition, and sampled from N(0, I) whatever the condition. So where
the noise tells the condition, the model learns to look for it there, and is misled at sampling: an assignment across
classes worsens class-conditional models (C2OT, arXiv 2503.10636), one within classes does not.

The condition is predicted by ridge regression, in closed form, from the noise along the leading components of the
data, from their squares, and from the length of the noise: KNN leaves its traces in the latter two. The data are
split in two halves, and each is predicted from the other, so no datum is seen both ways. The penalty is that of least
generalised cross-validation on the half that is fitted. What the same regression reads from independent noise of the
same pairs is its floor.

That probe is linear in its features and predicts the condition as it is: what it finds is there, but there may be more.
So a continuous condition is looked at from the other side too. Given the condition the noise must be N(0, I), so
nothing of it may be told: a random forest predicts the noise along a few leading components from the condition, and its
R^2 on the other half is what is *told*. It sees what no linear probe can, such as a sign that depends on a curved
function of the condition, which is what remains where data are ranked by their residuals.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from immiscible.analysis.batches import Batches
from immiscible.analysis.sampling import Data, Progress, check_data, some, take
from immiscible.couplings import Coupling, parse_coupling
from immiscible.couplings.axes import principal_axes
from immiscible.couplings.protocol import rows
from immiscible.couplings.ridge import Moments
from immiscible.errors import InputError
from immiscible.seeds import derive, generator

# Fewer pairs are not worth a regression.
FEWEST = 100
# The leading components that noise is looked at along, of how many data.
COMPONENTS, COMPONENTS_OF = 256, 1024
# Penalties in units of the variance of one feature.
PENALTIES = torch.logspace(-4, 4, 33, dtype=torch.float64)
# A leak counts from this many standard errors on.
STANDARD_ERRORS = 4.0
# A smaller one is there, and harmless as far as has been seen.
LITTLE = 0.01
# The forest: its trees, the fewest data in a leaf, how many components it predicts, of how many pairs at most, and from
# how many columns on a tree looks at some of them only.
TREES, LEAF, TOLD_COMPONENTS, TOLD_PAIRS, WIDE = 16, 5, 4, 3000, 32


@dataclass(frozen=True)
class Leak:
    """How well a condition is read from the noise, on pairs of data that the regression has not seen.

    Attributes:
        coupling: The spelling of the coupling.
        measure: ``accuracy`` for classes, ``R^2`` for a continuous condition.
        score: The share of classes that are right, or of the variance that is explained, in all columns together.
        error: Its standard error, over data.
        floor: The same for independent noise of the same pairs.
        floor_error: Its standard error.
        excess: The score less the floor.
        excess_error: Its standard error.
        chance: How often the commonest class is right; 0 for a continuous condition.
        leaks: Whether the excess is more than chance.
        pairs: The number of pairs.
        features: The number of features of the noise.
        batch_size: The data paired at once.
        told: The share of the variance of the noise along its leading components that a continuous condition tells,
            less that of independent noise; 0 for classes.
        told_error: Its standard error.
    """

    coupling: str
    measure: str
    score: float
    error: float
    floor: float
    floor_error: float
    excess: float
    excess_error: float
    chance: float
    leaks: bool
    pairs: int
    features: int
    batch_size: int
    told: float = 0.0
    told_error: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def said(self) -> str:
        """It in one line."""
        # Rounded first, zero has no sign.
        score, floor = (round(value, 3) + 0.0 for value in (self.score, self.floor))
        numbers = f"{self.measure} = {score:.3f}, and {floor:.3f} of independent noise"
        if self.told > LITTLE and self.told > STANDARD_ERRORS * self.told_error:
            numbers = (
                f"{numbers}; the condition tells {100 * self.told:.0f} % of the noise along its leading components"
            )
        elif self.leaks and self.excess < LITTLE:
            return f"the noise tells next to nothing of the condition: {numbers}."
        if self.leaks:
            return f"the noise tells of the condition: {numbers}; what training reads there misleads sampling."
        return f"the noise tells nothing of the condition: {numbers}."


@torch.no_grad()
def leak(
    data: Data,
    condition: Tensor,
    coupling: str | Coupling,
    batches: Batches | None = None,
    *,
    progress: Progress | None = None,
) -> Leak:
    r"""Measures how well the condition is read from the noise of a coupling.

    Arguments:
        data: The data, with shape (N, \*), in memory or mapped from a file.
        condition: Classes, integers with shape (N,), or numbers, floating with shape (N,) or (N, c). Their columns
            count by their variance: scale those of different units before.
        coupling: The coupling, or a spelling.
        batches: What to draw; its labels are what the coupling is given, whatever the condition.
        progress: Called with how many batches are done, and how many there are.

    Raises:
        InputError: If there are fewer than 100 pairs or 4 data, the condition is the same for all, or the input is not
            as it should be.

    Example:
        >>> data = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        >>> [round(leak(data, data[:, 0], spelling).excess, 1) for spelling in ("independent", "assignment")]
        [0.0, 0.8]
    """
    coupling, batches = parse_coupling(coupling), batches or Batches()
    check_data(data, least=4)
    wanted = _targets(condition, len(data))
    axes = _axes(data, batches.seed)
    index: list[Tensor] = []
    coupled: list[Tensor] = []
    drawn: list[Tensor] = []
    for pair in batches.paired(data, coupling, progress):
        index.append(pair.index.cpu())
        coupled.append(_features(pair.noise, axes))
        drawn.append(_features(pair.drawn, axes))
    which = torch.cat(index)
    if len(which) < FEWEST:
        raise InputError(f"a leak needs at least {FEWEST} pairs, got {len(which)}: draw more batches.")
    classes = not condition.is_floating_point()
    halves = _halves(which, wanted.argmax(1) if classes else torch.zeros(len(wanted)), batches.seed)
    score, floor = (_score(_predict(torch.cat(seen), wanted[which], halves), classes) for seen in (coupled, drawn))
    excess = score.above(floor)
    told = Score(0.0, torch.zeros(len(which), dtype=torch.float64))
    if not classes:
        told = _told(which, wanted[which], torch.cat(coupled), torch.cat(drawn), batches.seed)
    return Leak(
        coupling=str(coupling),
        measure="accuracy" if classes else "R^2",
        score=score.value,
        error=score.error(which),
        floor=floor.value,
        floor_error=floor.error(which),
        excess=excess.value,
        excess_error=excess.error(which),
        chance=float(wanted[which].mean(0).max()) if classes else 0.0,
        leaks=any(found.value > STANDARD_ERRORS * found.error(which) for found in (excess, told)),
        pairs=len(which),
        features=coupled[0].shape[1],
        batch_size=min(batches.size, len(data)),
        told=told.value,
        told_error=told.error(which),
    )


class Score(NamedTuple):
    """A mean over pairs, or a ratio of such means.

    Attributes:
        value: The score.
        parts: By how much each pair moves it, with mean 0 and shape (M,).
    """

    value: float
    parts: Tensor

    def above(self, floor: Score) -> Score:
        """By how much it is above another one of the same pairs."""
        return Score(self.value - floor.value, self.parts - floor.parts)

    def error(self, index: Tensor) -> float:
        """Its standard error, with the pairs of one datum taken together.

        Arguments:
            index: The datum of each pair, with shape (M,).
        """
        sums = torch.zeros(int(index.max()) + 1, dtype=self.parts.dtype).index_add_(0, index, self.parts)
        return float(sums.square().sum().sqrt()) / len(index)


def _targets(condition: Tensor, count: int) -> Tensor:
    """What is to be predicted, with a column for each class or number, in float64."""
    if not isinstance(condition, Tensor) or condition.ndim == 0 or len(condition) != count:
        given = tuple(condition.shape) if isinstance(condition, Tensor) else type(condition).__name__
        raise InputError(f"the condition must be a tensor with a row for each of {count} data, got {given}.")
    if condition.is_floating_point():
        wanted = rows(condition).double().cpu()
        if not bool(wanted.isfinite().all()):
            raise InputError("the condition must be finite, got NaN or infinite values.")
        varies = bool((wanted != wanted[0]).any())
    elif condition.ndim == 1:
        classes = condition.cpu().unique(return_inverse=True)[1]
        wanted = torch.nn.functional.one_hot(classes).double()
        varies = wanted.shape[1] > 1
    else:
        raise InputError(
            f"classes must have shape ({count},), got {tuple(condition.shape)}: use `.float()` if these are numbers."
        )
    if not varies:
        raise InputError("the condition must vary, got the same for all data.")
    return wanted


def _axes(data: Data, seed: int) -> Tensor:
    """The axes along which the data vary most, as columns with shape (D, q)."""
    index = some(COMPONENTS_OF, len(data), generator("cpu", seed, "leak components"))
    return principal_axes(rows(take(data, index)).double(), COMPONENTS).axes


def _features(noise: Tensor, axes: Tensor) -> Tensor:
    """Scalar products with the axes, their squares, and the square of the length, with shape (B, 2q + 1)."""
    flat = rows(noise).double()
    along = flat @ axes
    return torch.cat([along, along.square(), flat.square().sum(1, keepdim=True)], 1).cpu()


def _halves(index: Tensor, classes: Tensor, seed: int) -> list[Tensor]:
    """Masks of the pairs of either half of the data that were drawn, each with half of every class.

    Else a class that is common in one half would be rare in the other, and guesses worse than chance.

    Arguments:
        index: The datum of each pair, with shape (M,).
        classes: The class of each datum, with shape (N,).
        seed: The seed of the split.
    """
    data = index.unique()
    data = data[torch.randperm(len(data), generator=generator("cpu", seed, "leak halves"))]
    of_first = torch.isin(index, data[classes[data].argsort(stable=True)][::2])
    return [of_first, ~of_first]


class _Predicted(NamedTuple):
    """Predictions and what was to be predicted, with shape (M, c), and the halves they were made in."""

    predicted: Tensor
    wanted: Tensor
    halves: list[Tensor]


def _predict(features: Tensor, wanted: Tensor, halves: list[Tensor]) -> _Predicted:
    """Predicts each half from the other."""
    predicted = torch.empty_like(wanted)
    for held_out, fitted in (halves, halves[::-1]):
        predicted[held_out] = ridge(features[fitted], wanted[fitted], features[held_out])
    return _Predicted(predicted, wanted, halves)


def _told(index: Tensor, condition: Tensor, coupled: Tensor, drawn: Tensor, seed: int) -> Score:
    """How much of the noise the condition tells, above what it tells of independent noise.

    Arguments:
        index: The datum of each pair, with shape (M,).
        condition: The condition of each, with shape (M, c).
        coupled: The features of the coupled noise, of which the first are the noise along the leading components.
        drawn: Those of the noise as it was drawn.
        seed: The seed of all that is random in it.
    """
    from sklearn.ensemble import RandomForestRegressor

    data = index.unique()
    data = data[torch.randperm(len(data), generator=generator("cpu", seed, "leak told"))]
    seen = torch.isin(index, data[: max(FEWEST, TOLD_PAIRS * len(data) // len(index))])
    given = condition[seen].numpy()
    halves = _halves(index[seen], torch.zeros(int(index.max()) + 1), seed)
    scores = []
    for noise in (coupled, drawn):
        wanted = noise[seen, :TOLD_COMPONENTS]
        predicted = torch.empty_like(wanted)
        for held_out, fitted in (halves, halves[::-1]):
            forest = RandomForestRegressor(
                TREES,
                min_samples_leaf=LEAF,
                max_features=1.0 if condition.shape[1] < WIDE else condition.shape[1] ** -0.5,
                random_state=derive(seed, "leak forest") % 2**32,
            )
            forest.fit(given[fitted.numpy()], wanted[fitted].numpy())
            predicted[held_out] = torch.from_numpy(forest.predict(given[held_out.numpy()]))
        found = _score(_Predicted(predicted, wanted, halves), classes=False)
        # Of the pairs that it does not look at, none moves it.
        parts = torch.zeros(len(index), dtype=found.parts.dtype)
        parts[seen] = found.parts * (len(index) / int(seen.sum()))
        scores.append(Score(found.value, parts))
    return scores[0].above(scores[1])


def ridge(features: Tensor, wanted: Tensor, others: Tensor) -> Tensor:
    """Ridge regression on standardised features, see :mod:`immiscible.couplings.ridge`.

    Arguments:
        features: What is fitted on, with shape (n, p), in float64.
        wanted: What is predicted, with shape (n, c).
        others: The features to predict from, with shape (m, p).

    Returns:
        The predictions, with shape (m, c).
    """
    moments = Moments()
    moments.add(features, wanted)
    return moments.fit(PENALTIES)(others)


def _score(made: _Predicted, classes: bool) -> Score:
    """The accuracy, or R^2."""
    if classes:
        right = (made.predicted.argmax(1) == made.wanted.argmax(1)).double()
        return Score(float(right.mean()), right - right.mean())
    centred = made.wanted.clone()
    for half in made.halves:
        centred[half] -= centred[half].mean(0)
    missed, spread = ((values**2).sum(1) for values in (made.wanted - made.predicted, centred))
    total = spread.mean().clamp_min(math.ulp(0.0))
    share = missed.mean() / total
    return Score(1 - float(share), (share * spread - missed) / total)
