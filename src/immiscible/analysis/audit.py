r"""The audit of the noise law: whether the noise that a coupling pairs is N(0, I), looked at along many axes.

Sampling starts from N(0, I), so training should see it. An assignment hands out the noises that were drawn, so what is
true of those stays true. KNN chooses among candidates, and shrinks the noise, shifts it towards the mean of the data
and stretches it along their leading components; any of these is measured as the deviation of one number of each noise
that would be N(0, 1): its length, by the distribution function of :math:`\chi^2_D`, or its scalar product with an axis.

Of each number the mean, the variance, the skew and the kurtosis are tested, and the whole law by the test of
Kolmogorov and Smirnov (their limit law with the correction of Stephens, J. R. Stat. Soc. B 32, 1970). Skew and
kurtosis have the transformations of D'Agostino (Biometrika 57, 1970) and Anscombe and Glynn (Biometrika 70, 1983),
since they become normal slowly. A shift along no axis in particular is tested by :math:`M |\bar n|^2 \sim \chi^2_D`.
Holm's correction (Scand. J. Stat. 6, 1979) keeps the chance that exact noise fails any of these tests below the level.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from immiscible.analysis.batches import Batches
from immiscible.analysis.sampling import Data, Progress, some, take
from immiscible.couplings import Coupling, parse_coupling
from immiscible.couplings.axes import principal_axes
from immiscible.couplings.protocol import rows
from immiscible.errors import InputError
from immiscible.seeds import generator

# The chance that exact noise fails.
LEVEL = 0.01
# Fewer noises are not worth a test.
FEWEST = 100
# How many leading components of how many data, and how many random axes.
COMPONENTS, COMPONENTS_OF, RANDOM = 8, 1024, 4
# Normal scores are cut off here, where float64 has no probability left.
FARTHEST = 8.0
# Terms of the series of the limit law; the first alone is right to 1e-9 where it matters.
TERMS = 100


@dataclass(frozen=True)
class Statistic:
    """One number of each noise, N(0, 1) where the law of the noise is exact.

    Attributes:
        name: What it is.
        mean: Its mean.
        variance: Its variance.
        skew: Its skew; 0 where exact.
        kurtosis: Its excess kurtosis; 0 where exact.
        mean_z: The mean in standard errors.
        variance_z: The variance as a normal score.
        skew_z: The skew as a normal score.
        kurtosis_z: The kurtosis as a normal score.
        ks: The largest distance between its distribution function and the normal one, in [0, 1].
        ks_p: How likely a larger one is by chance.
    """

    name: str
    mean: float
    variance: float
    skew: float
    kurtosis: float
    mean_z: float
    variance_z: float
    skew_z: float
    kurtosis_z: float
    ks: float
    ks_p: float

    def p_values(self) -> dict[str, float]:
        """The p-values of its tests, two-sided."""
        scores = {what: getattr(self, f"{what}_z") for what in ("mean", "variance", "skew", "kurtosis")}
        values = {what: math.erfc(abs(score) / math.sqrt(2)) for what, score in scores.items()}
        return {f"{self.name}: {what}": value for what, value in {**values, "law": self.ks_p}.items()}


@dataclass(frozen=True)
class Audit:
    r"""How the noise of a coupling compares with N(0, I).

    Attributes:
        coupling: The spelling of the coupling.
        noises: The number of noises, M.
        dims: The dimension of each, D.
        batch_size: How many were paired at once.
        norm_ratio: The mean of :math:`|n|^2 / D`; 1 where exact.
        mean_shift: The root mean square of the mean noise, :math:`|\bar n| / \sqrt D`.
        mean_shift_floor: What chance gives for it, :math:`1 / \sqrt M`.
        mean_shift_p: How likely a larger one is by chance.
        statistics: The length and the scalar products with axes.
        tests: How many tests were made.
        level: The chance that exact noise fails one of them.
        least_p: The least p-value, after Holm's correction.
        failed: The tests that were failed, with their p-values after the correction, the least first.
        passed: Whether none was.
    """

    coupling: str
    noises: int
    dims: int
    batch_size: int
    norm_ratio: float
    mean_shift: float
    mean_shift_floor: float
    mean_shift_p: float
    statistics: list[Statistic]
    tests: int
    level: float
    least_p: float
    failed: dict[str, float]
    passed: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def audit(
    data: Data,
    coupling: str | Coupling,
    batches: Batches | None = None,
    *,
    level: float = LEVEL,
    progress: Progress | None = None,
) -> Audit:
    r"""Audits the law of the noise of a coupling.

    Arguments:
        data: The data, with shape (N, \*), in memory or mapped from a file.
        coupling: The coupling, or a spelling.
        batches: What to draw. The more, the smaller a bias is found: that of ``knn:2@0.5`` takes a thousand noises.
        level: The chance that exact noise fails, in (0, 1).
        progress: Called with how many batches are done, and how many there are.

    Raises:
        InputError: If there are fewer than 100 noises, or the input is not as it should be.

    Example:
        >>> data = torch.randn(100, 8, generator=torch.Generator().manual_seed(0)) + 2
        >>> [audit(data, spelling).passed for spelling in ("independent", "assignment", "knn:4", "knn:4:dot")]
        [True, True, False, False]
    """
    coupling, batches = parse_coupling(coupling), batches or Batches()
    if not 0 < level < 1:
        raise InputError(f"`level` must be in (0, 1), got {level!r}.")
    seen = _look(data, coupling, batches, progress)
    noises, dims = len(seen.squares), len(seen.total)
    if noises < FEWEST:
        raise InputError(f"an audit needs at least {FEWEST} noises, got {noises}: draw more batches.")
    statistics = [_statistic("length", _normal_scores(seen.squares, dims))]
    statistics += [_statistic(name, values) for name, values in zip(seen.names, seen.products.T, strict=True)]
    shift = (seen.total / noises).square().mean()
    shift_p = float(torch.special.gammaincc(torch.tensor(dims / 2).double(), noises * dims * shift / 2))
    values = {"mean noise": shift_p}
    for statistic in statistics:
        values |= statistic.p_values()
    corrected = dict(zip(values, holm(torch.tensor([*values.values()]).double()).tolist(), strict=True))
    failed = {name: value for name, value in sorted(corrected.items(), key=lambda item: item[1]) if value <= level}
    return Audit(
        coupling=str(coupling),
        noises=noises,
        dims=dims,
        batch_size=min(batches.size, len(data)),
        norm_ratio=float(seen.squares.mean() / dims),
        mean_shift=float(shift.sqrt()),
        mean_shift_floor=noises**-0.5,
        mean_shift_p=shift_p,
        statistics=statistics,
        tests=len(values),
        level=level,
        least_p=min(corrected.values()),
        failed=failed,
        passed=not failed,
    )


def holm(p_values: Tensor) -> Tensor:
    """P-values corrected for their number by Holm's method: those at most the level are rejected.

    Example:
        >>> holm(torch.tensor([0.5, 0.01, 0.02]))
        tensor([0.5000, 0.0300, 0.0400])
    """
    values, order = p_values.sort()
    left = torch.arange(len(values), 0, -1, dtype=values.dtype)
    return torch.empty_like(values).scatter_(0, order, (values * left).cummax(0).values.clamp_max(1))


class _Seen(NamedTuple):
    """What is kept of the noises: their squares, scalar products with the axes, and their sum."""

    names: list[str]
    squares: Tensor
    products: Tensor
    total: Tensor


def _look(data: Data, coupling: Coupling, batches: Batches, progress: Progress | None) -> _Seen:
    """Draws the noises, and keeps a few numbers of each."""
    names, axes = [], torch.empty(0)
    squares, products, total = [], [], torch.zeros(())
    for pair in batches.paired(data, coupling, progress):
        noise = rows(pair.noise).double()
        if not names:
            names, axes = _axes(data, batches.seed)
            axes, total = axes.to(noise), torch.zeros_like(noise[0])
        squares.append(noise.square().sum(1))
        products.append(noise @ axes)
        total += noise.sum(0)
    return _Seen(names, torch.cat(squares).cpu(), torch.cat(products).cpu(), total.cpu())


def _axes(data: Data, seed: int) -> tuple[list[str], Tensor]:
    """Axes to look along, their names and the axes as columns with shape (D, q)."""
    draws = generator("cpu", seed, "audit axes")
    points = rows(take(data, some(COMPONENTS_OF, len(data), draws))).double().cpu()
    dims = points.shape[1]
    mean, components, squares = principal_axes(points, COMPONENTS)
    components = components[:, squares > 0]
    random = torch.randn(dims, RANDOM, generator=draws, dtype=torch.float64)
    named = {"mean value": torch.ones(dims, dtype=torch.float64), "mean of the data": mean}
    named |= {f"component {number}": axis for number, axis in enumerate(components.T, 1)}
    named |= {f"random axis {number}": axis for number, axis in enumerate(random.T, 1)}
    kept = {name: axis / axis.norm() for name, axis in named.items() if axis.norm() > 0}
    return list(kept), torch.stack([*kept.values()], 1)


def _normal_scores(squares: Tensor, dims: int) -> Tensor:
    """Squares of lengths as normal scores, by the distribution function of the chi-square law."""
    half = torch.full_like(squares, dims / 2)
    lower, upper = torch.special.gammainc(half, squares / 2), torch.special.gammaincc(half, squares / 2)
    scores = torch.where(lower < upper, torch.special.ndtri(lower), -torch.special.ndtri(upper))
    return scores.clamp(-FARTHEST, FARTHEST)


def _statistic(name: str, values: Tensor) -> Statistic:
    """The moments of a number, and their scores."""
    count, mean = len(values), values.mean()
    variance = values.var()
    standard = (values - mean) / values.std(correction=0).clamp_min(1e-150)
    skew, kurtosis = float(standard.pow(3).mean()), float(standard.pow(4).mean()) - 3
    distance = _distance(values)
    return Statistic(
        name=name,
        mean=float(mean),
        variance=float(variance),
        skew=skew,
        kurtosis=kurtosis,
        mean_z=float(mean) * math.sqrt(count),
        variance_z=_wilson_hilferty(float(variance), count - 1),
        skew_z=_skew_score(skew, count),
        kurtosis_z=_kurtosis_score(kurtosis, count),
        ks=distance,
        ks_p=_kolmogorov(distance, count),
    )


def _distance(values: Tensor) -> float:
    """The largest distance between the distribution function of values and the normal one."""
    normal = torch.special.ndtr(values.sort().values)
    steps = torch.arange(len(values) + 1, dtype=normal.dtype) / len(values)
    return float(torch.maximum((steps[1:] - normal).max(), (normal - steps[:-1]).max()))


def _kolmogorov(distance: float, count: int) -> float:
    """How likely a larger distance is by chance, by the limit law with Stephens' correction."""
    reach = (math.sqrt(count) + 0.12 + 0.11 / math.sqrt(count)) * distance
    if reach < 0.2:
        # The series alternates too long, and the law has less than 1e-10 below.
        return 1.0
    terms = (2 * (-1) ** (term - 1) * math.exp(-2 * (term * reach) ** 2) for term in range(1, TERMS))
    return min(1.0, max(0.0, sum(terms)))


def _wilson_hilferty(ratio: float, degrees: int) -> float:
    """A chi-square variable over its degrees of freedom, as a normal score."""
    spread = 2 / (9 * degrees)
    return (math.cbrt(ratio) - (1 - spread)) / math.sqrt(spread)


def _skew_score(skew: float, count: int) -> float:
    """D'Agostino's transformation of the skew."""
    n = count
    y = skew * math.sqrt((n + 1) * (n + 3) / (6 * (n - 2)))
    beta = 3 * (n**2 + 27 * n - 70) * (n + 1) * (n + 3) / ((n - 2) * (n + 5) * (n + 7) * (n + 9))
    w2 = math.sqrt(2 * (beta - 1)) - 1
    return math.asinh(y * math.sqrt((w2 - 1) / 2)) / math.sqrt(math.log(w2) / 2)


def _kurtosis_score(kurtosis: float, count: int) -> float:
    """Anscombe and Glynn's transformation of the kurtosis."""
    n = count
    variance = 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    x = (kurtosis + 6 / (n + 1)) / math.sqrt(variance)
    root = 6 * (n**2 - 5 * n + 2) / ((n + 7) * (n + 9)) * math.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    a = 6 + 8 / root * (2 / root + math.sqrt(1 + 4 / root**2))
    below = 1 + x * math.sqrt(2 / (a - 4))
    spread = 2 / (9 * a)
    # Far below its least value the transformation has a pole, beyond which all are far out alike.
    return (1 - spread - math.cbrt((1 - 2 / a) / max(below, 1e-12))) / math.sqrt(spread)
