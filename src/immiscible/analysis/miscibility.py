r"""Miscibility: how many data are mixed at a noisy point.

At the noisy point :math:`x_t = \alpha_t x + \sigma_t n` any of the :math:`N` data may be the one behind it, with
posterior

.. math:: p(i \mid x_t) \propto p(n_i \mid x_i), \qquad n_i = (x_t - \alpha_t x_i) / \sigma_t.

The exponential of its entropy is the effective number of data mixed there: 1 where they are immiscible, N where they
are fully mixed. Its curve over the time is this package's measure of miscibility, in place of the published centroid
distance (arXiv 2505.18521), which cannot be told from its own sampling error without a control.

Independent noise and KNN have closed densities (:mod:`immiscible.analysis.laws`), so their posterior is exact; that of
an assignment is estimated from pools (:mod:`immiscible.analysis.plan`), twice: that shows the error by chance, beside
that of its model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from immiscible.analysis.laws import Law, NearestLaw, Part, Pencil, Points, Seen, parts
from immiscible.analysis.plan import SMALL_DATA, SMALL_POOL, Mirrored, PlanLaw, Pooled, fit_plan, solve_pools
from immiscible.analysis.sampling import Data, Progress, check_counts, check_data, pairs, take
from immiscible.couplings import KNN, Coupling, Independent, InSpace, LinearAssignment
from immiscible.couplings.parsing import parse_coupling
from immiscible.couplings.spaces import Raw
from immiscible.errors import InputError
from immiscible.seeds import derive, generator

# What is less likely than the datum behind a point by this much, in nats, is not looked at closer. Of a million such
# data the effective number changes by less than one part in 1e5.
NEGLIGIBLE = 30.0
# Values of float64 that are worked on at once, in each of about ten tensors.
VALUES_AT_ONCE = 2**20
Path = Callable[[float], tuple[float, float]]


def straight(t: float) -> tuple[float, float]:
    """Signal and noise of flow matching at a time in [0, 1): t and 1 - t; 0 is noise."""
    return t, 1 - t


def diffusing(alpha_bar: float) -> tuple[float, float]:
    r"""Signal and noise of a diffusion, by :math:`\bar\alpha` in [0, 1) in place of the time."""
    return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)


def default_times(count: int = 24) -> tuple[float, ...]:
    """Times of a flow: 0, and those at which the ratio of signal to noise grows from 0.01 to 4 by equal factors.

    Data of high dimension come apart close to the noise, others late.
    """
    ratios = (0.01 * 400 ** (step / (count - 2)) for step in range(count - 1))
    return (0.0, *(ratio / (1 + ratio) for ratio in ratios))


@dataclass(frozen=True)
class Curve:
    """What a miscibility curve is taken over.

    Attributes:
        points: How many noisy points; each is followed through all times.
        times: The times, none of them without noise.
        path: Signal and noise at a time.
        batch_size: The data paired at once, which is the pool of an assignment.
    """

    points: int = 512
    times: Sequence[float] = default_times()
    path: Path = straight
    batch_size: int = 256

    def ratios(self) -> list[float]:
        """Signal to noise at each time."""
        mixed = [self.path(time) for time in self.times]
        if not mixed or not all(noise > 0 and signal >= 0 for signal, noise in mixed):
            raise InputError("times must have noise in them, got one without: end before the data.")
        return [signal / noise for signal, noise in mixed]


@dataclass(frozen=True)
class Miscibility:
    """The effective number of data mixed, over time.

    Attributes:
        coupling: The spelling of the coupling.
        images: The number of data, N.
        points: The number of noisy points.
        times: The times.
        lower: The first quartile over points at each time, in [1, N].
        median: Their median.
        upper: Their third quartile.
        mean: Their mean.
        standard_error: The standard error of the mean over points.
        estimate_error: What two independent estimates of the density leave open of the mean, half of their difference;
            zeros where the density is known. For the error of the model itself see :mod:`immiscible.analysis.plan`.
        exact: Whether the density is known.
        gain: How much likelier than by chance the estimated density makes other pools, in nats for each datum; None
            where the density is known, or taken from small pools as they are.
    """

    coupling: str
    images: int
    points: int
    times: list[float]
    lower: list[float]
    median: list[float]
    upper: list[float]
    mean: list[float]
    standard_error: list[float]
    estimate_error: list[float]
    exact: bool
    gain: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def miscibility(
    data: Data,
    coupling: str | Coupling,
    curve: Curve | None = None,
    *,
    labels: Tensor | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Miscibility:
    r"""Measures how many data are mixed at the noisy points of a coupling.

    Arguments:
        data: The data, with shape (N, \*), in memory or mapped from a file; read in chunks.
        coupling: Independent, KNN or an assignment, alone or within `Mixed` and `InSpace`, or a spelling.
        curve: What to measure.
        labels: The class of each datum, with shape (N,), where the coupling is to keep noise within classes.
        seed: The seed of points and pools.
        progress: Called with how many data are done, and how many there are.

    Raises:
        InputError: If the law of the coupling is not known, or the input is not as it should be.

    Example:
        >>> data = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
        >>> round(miscibility(data, "independent", Curve(points=4)).median[0], 6)
        10.0
    """
    curve, coupling = curve or Curve(), parse_coupling(coupling)
    check_data(data)
    check_counts(points=curve.points, batch_size=curve.batch_size)
    ratios = curve.ratios()
    of = parts(coupling)
    exact = not any(isinstance(part.coupling, LinearAssignment) for part in of)
    where, drawn = _points(data, of, curve, labels, seed)
    repeats = 1 if exact else 2
    counts, gains = [], []
    for repeat in range(repeats):
        terms = _terms(data, of, curve, labels, derive(seed, "miscibility", repeat))
        gains += [law.gain for term in terms for law in term.laws if isinstance(law, PlanLaw)]
        report = _part_of(progress, repeat, repeats)
        counts.append(_Posterior(data, terms, where, drawn).effective(ratios, report))
    both = torch.stack(counts)
    mean = both.mean(0)
    off = (both[0] - both[-1]).mean(1).abs() / 2
    quartiles = torch.quantile(mean, torch.tensor([0.25, 0.5, 0.75], dtype=mean.dtype, device=mean.device), dim=1)
    error = mean.std(1) / math.sqrt(mean.shape[1]) if mean.shape[1] > 1 else torch.zeros(len(mean))
    lower, median, upper, means, errors, offs = (values.tolist() for values in (*quartiles, mean.mean(1), error, off))
    gain = sum(gains) / len(gains) if gains else None
    times = [float(time) for time in curve.times]
    name = str(coupling)
    return Miscibility(name, len(data), mean.shape[1], times, lower, median, upper, means, errors, offs, exact, gain)


def _part_of(progress: Progress | None, repeat: int, repeats: int) -> Progress | None:
    """Progress of one of several passes."""
    if progress is None:
        return None
    return lambda done, every: progress(repeat * every + done, repeats * every)


def _points(data: Data, of: list[Part], curve: Curve, labels: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
    """The data of the points and their noise, each coupled by the part that a coin of its own chooses."""
    size = min(curve.batch_size, len(data))
    first = of[0]
    paired = first.coupling if isinstance(first.space, Raw) else InSpace(first.coupling, first.space)
    batches = -(-curve.points // size)
    index, noises = [], []
    for pair in pairs(data, paired, batches=batches, batch_size=size, labels=labels, seed=seed):
        coins = torch.rand(len(pair.index), generator=generator("cpu", seed, "miscibility coins", len(index)))
        coupled = (coins < first.share).to(pair.x.device).view(-1, *[1] * (pair.x.ndim - 1))
        order = torch.randperm(len(pair.index), generator=generator("cpu", seed, "miscibility order", len(index)))
        index.append(pair.index[order])
        noises.append(torch.where(coupled, pair.noise, pair.drawn)[order.to(pair.x.device)])
    return torch.cat(index)[: curve.points], torch.cat(noises)[: curve.points]


@dataclass(frozen=True)
class _Term:
    """One part of a coupling: the law of each group of data; of one that is missing the noise is independent."""

    share: float
    laws: list[Law]
    # Which law a datum has, with shape (N,), -1 for none.
    group: Tensor


def _terms(data: Data, of: list[Part], curve: Curve, labels: Tensor | None, seed: int) -> list[_Term]:
    """The laws of a coupling."""
    whole = torch.zeros(len(data), dtype=torch.long)
    terms = []
    for part in of:
        match part.coupling:
            case KNN():
                terms.append(_Term(part.share, [NearestLaw(part.coupling, part.space)], whole))
            case Independent():
                terms.append(_Term(part.share, [], whole - 1))
            case LinearAssignment() as assignment:
                terms.append(_assignment(data, (part, assignment), curve, labels, seed))
    return terms


def _assignment(data: Data, of: tuple[Part, LinearAssignment], curve: Curve, labels: Tensor | None, seed: int) -> _Term:
    """The laws of an assignment, one for each class."""
    part, assignment = of
    classes = torch.zeros(len(data), dtype=torch.long) if labels is None else labels.unique(return_inverse=True)[1]
    group, laws = torch.full((len(data),), -1), []
    pool = min(curve.batch_size, len(data))
    for number in range(int(classes.max()) + 1):
        members = (classes == number).nonzero()[:, 0].cpu()
        size = round(pool * len(members) / len(data))
        size = min(size, assignment.block or size)
        if size < 2:
            continue
        whole = replace(assignment, block=None, pool="batch", group=None, goal="best")
        space = part.space if assignment.goal == "best" else Mirrored(part.space)
        pooled = Pooled(data, members, size, whole, space, derive(seed, "class", number))
        group[members] = len(laws)
        small = size <= SMALL_POOL and len(data) <= SMALL_DATA and labels is None and not whole.temperature
        laws.append(solve_pools(pooled) if small else fit_plan(pooled))
    return _Term(part.share, laws, group)


class _Posterior:
    """The posterior over all data at some points, summed up chunk by chunk."""

    def __init__(self, data: Data, terms: list[_Term], where: Tensor, noise: Tensor) -> None:
        self.data, self.terms, self.where = data, terms, where
        self.x, self.noise = take(data, where), noise
        self.bound = max([0.0, *(law.bound for term in terms for law in term.laws)])
        self.points = self._seen(Raw())
        self.of_law = {id(law): self._seen(law.space) for term in terms for law in term.laws}

    def _seen(self, space: Any) -> Points:
        return Points(Seen.through(space, self.x), space.coarse(self.noise).flatten(1).double())

    def effective(self, ratios: list[float], progress: Progress | None) -> Tensor:
        """The effective number at each ratio and point, with shape (T, P)."""
        count = len(self.where)
        shape, device = (len(ratios), count), self.noise.device
        peak = torch.full(shape, -torch.inf, dtype=torch.float64, device=device)
        for row, logs in enumerate(self._logs(self.where, ratios, peak)):
            peak[row] = logs.amax(0)
        total, weighted = torch.zeros_like(peak), torch.zeros_like(peak)
        step = max(1, VALUES_AT_ONCE // max(count, self.noise[0].numel()))
        for begin in range(0, len(self.data), step):
            index = torch.arange(begin, min(begin + step, len(self.data)))
            for row, logs in enumerate(self._logs(index, ratios, peak)):
                # The peak is that of data among which the one behind the point is: sums stay finite.
                logs -= peak[row]
                weights = logs.exp()
                total[row] += weights.sum(0)
                # Where the logarithm is minus infinity the weight is 0, and so is what it adds.
                weighted[row] += weights.mul_(logs.clamp_min_(-1e4)).sum(0)
            if progress is not None:
                progress(int(index[-1]) + 1, len(self.data))
        return (total.log() - weighted / total).exp()

    def _logs(self, index: Tensor, ratios: list[float], peak: Tensor) -> Iterator[Tensor]:
        """The logarithms of the densities of some data at all points, for one ratio after the other.

        Data that are negligible at all points are left out.
        """
        at = slice(int(index[0]), int(index[-1]) + 1) if len(index) == int(index[-1] - index[0]) + 1 else index
        x = take(self.data, at)
        plain = Pencil(Seen.through(Raw(), x), self.points)
        groups = []
        for term in self.terms:
            for number, law in enumerate(term.laws):
                rows = (term.group[index] == number).nonzero()[:, 0].to(x.device)
                if len(rows):
                    groups.append((term, law, rows, self._pencil(law, x, rows, plain)))
        for row, ratio in enumerate(ratios):
            base = plain.squares(ratio).div_(-2)
            live = base >= peak[row] - (NEGLIGIBLE + self.bound)
            some = live.any(1)
            if groups and some.any():
                base += self._log_ratio(index, groups, ratio, live)
            yield base.masked_fill_(~live, -torch.inf)[some]

    def _pencil(self, law: Law, x: Tensor, rows: Tensor, plain: Pencil) -> Pencil:
        """The pencil of some of the data in the space of a law, with what it shares with that of all of them."""
        whole = len(rows) == len(x)
        if whole and isinstance(law.space, Raw):
            return plain
        x = x if whole else x[rows]
        same = plain if whole and law.space.coarse(x) is x else None
        return Pencil(Seen.through(law.space, x), self.of_law[id(law)], same)

    def _log_ratio(self, index: Tensor, groups: list[Any], ratio: float, live: Tensor) -> Tensor:
        """The logarithm of the mixed ratio, right where it is asked for."""
        parts = [self._log_ratio_of(term, index, groups, ratio, live) for term in self.terms]
        if len(parts) == 1:
            return parts[0]
        shares = [math.log(term.share) for term in self.terms]
        return torch.logsumexp(torch.stack([part + share for part, share in zip(parts, shares, strict=True)]), 0)

    def _log_ratio_of(self, term: _Term, index: Tensor, groups: list[Any], ratio: float, live: Tensor) -> Tensor:
        """That of one part."""
        logs = torch.zeros(live.shape, dtype=torch.float64, device=live.device)
        for of, law, rows, pencil in groups:
            wanted = live[rows]
            if of is term and wanted.any():
                ratios = torch.zeros(wanted.shape, dtype=torch.float64, device=live.device)
                ratios[wanted] = law.log_ratio(pencil, index[rows.cpu()], ratio, wanted)
                logs[rows] = ratios
        return logs
