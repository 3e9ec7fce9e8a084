r"""The law of the noise of an assignment, estimated from pools.

A datum :math:`x_i` in a pool of :math:`B` gets noise of density :math:`\varphi(n)\, w(n, x_i)` with

.. math:: w(n, x_i) = B \; P(x_i \text{ and } n \text{ are paired} \mid \text{both are in the pool}),

the probability over the other :math:`B - 1` data and noises. They are paired exactly where the score
:math:`\langle x_i, n\rangle` is above what the pool offers instead, the best chain of exchanges that begins with a
datum taking :math:`n` and ends with :math:`x_i` taking a noise.

*Small pools*, of at most six data and sets of at most 16: that probability itself, over many random pools, each of
them solved by going through all permutations. Right but for the number of pools.

*Larger pools*: what a pool offers is nearly a price of the datum plus a price of the noise, of which chance adds and
takes some, logistic chance in the limit of large random assignments (Aldous, Random Struct. Algorithms 18, 2001). So

.. math:: w(n, x_i) \approx B\, \mathrm{sigmoid}\left(\beta_0 + \beta_1 \langle x_i, n\rangle
    + \beta_2 f(x_i) + \beta_3 g(n)\right).

The prices f and g are those of an entropic transport plan between a sample of the data and one of noise (Sinkhorn).
Its temperature and the four weights are those under which the pairs of fresh pools, solved by the coupling itself, are
likeliest. It is a model with five numbers fitted. Against pools taken as they are its effective numbers were 2 to 11 %
too large at pools of 6, for 256 digits 10 to 20 % at pools of 16. In pools of 64, wherever more than two data were
mixed, they were 26 to 36 % too large for 256 digits, 24 to 34 % for 256 images of Fashion-MNIST, and 29 to 43 % for 256
of CIFAR-10; in pools of 128, 35 to 55 % for the digits. Other temperatures changed that by a few per cent, and two
estimates by one model do not show it. How much it explains of other pools is measured too, as ``gain``: what the mean
log likelihood of what was paired and what was not is above that of chance.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from immiscible.analysis.laws import Pencil, Points, Seen
from immiscible.analysis.sampling import Data, some, take
from immiscible.couplings import LinearAssignment, permutation
from immiscible.couplings.spaces import Space
from immiscible.seeds import generator

# Pools up to this size, of data up to this number, are taken as they are.
SMALL_POOL, SMALL_DATA = 6, 16
# How many random pools are solved for each datum then.
POOLS = 1000
# How many data and noises the prices are found between, and by how many steps.
REFERENCES, SINKHORN_STEPS = 384, 40
# Temperatures are tried as shares of the standard deviation of scores, and the best is taken.
TEMPERATURES = (0.9, 0.6, 0.4, 0.27, 0.18)
# Pairs of fresh pools that the temperature is fitted to, and at most how many pools.
FITTED_PAIRS, FITTED_POOLS = 1024, 64


@dataclass(frozen=True)
class Pooled:
    r"""What pools are drawn from.

    Attributes:
        data: The data, with shape (N, \*).
        members: Which of them may be in a pool together, with shape (M,).
        size: The data in a pool.
        coupling: The assignment.
        space: What it ranks in.
        seed: The seed of all pools.
    """

    data: Data
    members: Tensor
    size: int
    coupling: LinearAssignment
    space: Space
    seed: int

    def draws(self, purpose: str, *position: int) -> torch.Generator:
        return generator("cpu", self.seed, f"plan {purpose}", *position)

    def seen(self, count: int, draws: torch.Generator) -> tuple[Seen, Tensor]:
        """Some members and as many noises, in the space of the ranking."""
        index = self.members[some(count, len(self.members), draws)]
        x = take(self.data, index)
        seen = Seen.through(self.space, x)
        noise = torch.randn(len(x), seen.plain.shape[1], generator=draws, dtype=torch.float64)
        return seen, noise.to(x.device)


@dataclass(frozen=True)
class Mirrored:
    """A space in which data are ranked as their mirror images: what is nearest to those is farthest from the data.

    Attributes:
        space: The space of the data.
    """

    space: Space

    @property
    def is_coarse(self) -> bool:
        return self.space.is_coarse

    def ranked(self, x: Tensor) -> Tensor:
        return -self.space.ranked(x)

    def coarse(self, noise: Tensor) -> Tensor:
        return self.space.coarse(noise)

    def replaced(self, noise: Tensor, chosen: Tensor) -> Tensor:
        return self.space.replaced(noise, chosen)


@dataclass(frozen=True)
class PlanLaw:
    """That of an assignment over larger pools, by an entropic plan.

    Attributes:
        space: What is ranked in.
        size: The data in a pool.
        temperature: Of the plan.
        weights: Of 1, the score and both prices.
        gain: How much likelier other pools are than by chance, in nats for each datum.
    """

    space: Space
    size: int
    temperature: float
    weights: tuple[float, ...]
    gain: float
    data: Seen = field(repr=False)
    noise: Tensor = field(repr=False)
    data_prices: Tensor = field(repr=False)
    noise_prices: Tensor = field(repr=False)

    @property
    def bound(self) -> float:
        return math.log(self.size)

    def log_ratio(self, pencil: Pencil, index: Tensor, ratio: float, live: Tensor) -> Tensor:
        """See :class:`~immiscible.analysis.laws.Law`."""
        features = self.features(pencil, ratio, live)
        weights = torch.tensor(self.weights[1:], dtype=torch.float64, device=live.device)
        logits = self.weights[0] + weights @ torch.stack(features)
        return math.log(self.size) + torch.nn.functional.logsigmoid(logits)

    def features(self, pencil: Pencil, ratio: float, live: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The scores and both prices, over the temperature, where they are asked for."""
        inverse, some = 1 / self.temperature, live.any(1)
        of_data, at_data = pencil.once(id(self), lambda: self._of_data(pencil.data))
        of_noises, slope = pencil.points.once(id(self), lambda: self._of_points(pencil.points))
        # The price of the noise n_i = n_j + rho (x_j - x_i): the sum over references is one of products.
        at_points = (of_noises + ratio * slope) * inverse - self.data_prices[:, None]
        at_data = at_data[:, some] * (-ratio * inverse)
        peak, own_peak = at_points.amax(0), at_data.amax(0)
        sums = (at_data - own_peak).exp().T @ (at_points - peak).exp()
        of_noise = sums.clamp_min(1e-300).log() + own_peak[:, None] + peak - math.log(len(self.data.ranked))
        return (pencil.scores(ratio) * inverse)[live], of_data[:, None].expand(live.shape)[live], of_noise[live[some]]

    def _of_data(self, data: Seen) -> tuple[Tensor, Tensor]:
        """The prices of data, and their scores with the references."""
        prices = _prices(data.ranked @ self.noise.T / self.temperature - self.noise_prices)
        return prices, self.data.ranked @ data.plain.T

    def _of_points(self, points: Points) -> tuple[Tensor, Tensor]:
        """The scores of the references with the noise of points, and with their data."""
        return self.data.ranked @ points.noise.T, self.data.ranked @ points.data.plain.T


def _prices(logs: Tensor) -> Tensor:
    """The logarithm of the mean of exponentials of each row."""
    return torch.logsumexp(logs, 1) - math.log(logs.shape[1])


def _sinkhorn(scores: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """The prices of rows and columns at temperature 1, from prices of the columns to start with."""
    columns = start
    for _ in range(SINKHORN_STEPS):
        rows = _prices(scores - columns)
        columns = _prices((scores - rows[:, None]).T)
    return _prices(scores - columns), columns


def fit_plan(pooled: Pooled) -> PlanLaw:
    """Fits the plan of an assignment to pools.

    Arguments:
        pooled: The pools.
    """
    seen, noise = pooled.seen(REFERENCES, pooled.draws("references"))
    scores = seen.ranked @ noise.T
    deviation = scores.std().clamp_min(1e-12).item()
    count = min(FITTED_POOLS, max(2, -(-FITTED_PAIRS // pooled.size)))
    pools = [_solved(pooled, pool) for pool in range(2 * count)]
    columns = torch.zeros(len(noise), dtype=scores.dtype, device=scores.device)

    start_weights = (-math.log(pooled.size - 1), 1.0, -1.0, -1.0)

    def plan(share: float, start: Tensor) -> PlanLaw:
        temperature = share * deviation
        rows, columns = _sinkhorn(scores / temperature, start)
        return PlanLaw(pooled.space, pooled.size, temperature, start_weights, 0.0, seen, noise, rows, columns)

    best, most = None, -math.inf
    for share in TEMPERATURES:
        law = plan(share, columns)
        columns = law.noise_prices
        features = [_features(law, *pool) for pool in pools[:count]]
        law = replace(law, weights=_weights(law, features))
        gain = _gain(law, features)
        if best is None or gain > most:
            best, most = law, gain
    assert best is not None
    return replace(best, gain=_gain(best, [_features(best, *pool) for pool in pools[count:]]))


def _features(law: PlanLaw, seen: Seen, noise: Tensor) -> Tensor:
    """What a logistic regression reads of all pairs of a pool: 1, the score, and both prices; shape (B^2, 4)."""
    pencil = Pencil(seen, Points(Seen(torch.zeros_like(noise), torch.zeros_like(noise)), noise))
    features = law.features(pencil, 0.0, torch.ones(len(noise), len(noise), dtype=torch.bool, device=noise.device))
    return torch.stack([torch.ones_like(features[0]), *features], 1)


def _paired(law: PlanLaw, features: list[Tensor]) -> Tensor:
    """Which of all pairs were paired: each datum has the noise in its own place."""
    own = torch.eye(law.size, dtype=torch.float64, device=features[0].device)
    return own.flatten().repeat(len(features))


def _weights(law: PlanLaw, features: list[Tensor]) -> tuple[float, ...]:
    """The weights under which pools are likeliest, by Newton steps."""
    every, paired = torch.cat(features), _paired(law, features)
    weights = torch.tensor(law.weights, dtype=torch.float64, device=every.device)
    ridge = 1e-6 * paired.sum() * torch.eye(4, dtype=torch.float64, device=every.device)
    for _ in range(12):
        chance = torch.sigmoid(every @ weights)
        curvature = (every * (chance * (1 - chance))[:, None]).T @ every + ridge
        weights = weights + torch.linalg.solve(curvature, every.T @ (paired - chance)).clamp(-1, 1)
    return tuple(weights.tolist())


def _solved(pooled: Pooled, pool: int) -> tuple[Seen, Tensor]:
    """A pool of data and the noise that the coupling gave each."""
    draws = pooled.draws("pools", pool)
    seen, noise = pooled.seen(pooled.size, draws)
    order = permutation(pooled.coupling, seen.ranked.float(), noise.float(), generator=draws)
    return seen, noise[order]


def _gain(law: PlanLaw, features: list[Tensor]) -> float:
    """How much likelier what was paired and what was not is than by chance, in nats for each datum."""
    weights = torch.tensor(law.weights, dtype=torch.float64, device=features[0].device)
    logits = torch.cat(features) @ weights
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, _paired(law, features))
    return law.size * (_entropy(1 / law.size) - loss.item())


def _entropy(chance: float) -> float:
    return -chance * math.log(chance) - (1 - chance) * math.log1p(-chance)


@dataclass(frozen=True)
class PoolLaw:
    """That of an assignment over small pools of a small set, by solving many of them.

    Attributes:
        space: What is ranked in.
        size: The data in a pool.
        ranked: The data, with shape (N, d).
        others: The other data of each pool of each datum, places with shape (N, R, B - 1).
        noise: The other noises, with shape (R, B - 1, d).
        chains: What the pool loses without a datum and a noise, with shape (N, R, B - 1, B - 1).
    """

    space: Space
    size: int
    ranked: Tensor = field(repr=False)
    others: Tensor = field(repr=False)
    noise: Tensor = field(repr=False)
    chains: Tensor = field(repr=False)

    @property
    def bound(self) -> float:
        return math.log(self.size)

    def log_ratio(self, pencil: Pencil, index: Tensor, ratio: float, live: Tensor) -> Tensor:
        """See :class:`~immiscible.analysis.laws.Law`."""
        scores, shares = pencil.scores(ratio), torch.empty(live.shape, dtype=torch.float64)
        for row, datum in enumerate(index.tolist()):
            points = pencil.points.noise + ratio * (pencil.points.data.plain - pencil.data.plain[row])
            taking = (self.ranked @ points.T)[self.others[datum]]
            giving = (self.noise @ pencil.data.ranked[row])[:, None, :] + self.chains[datum]
            offers = taking[:, :, :] + giving.amax(2)[:, :, None]
            wins = (offers.amax(1) <= scores[row]).double().sum(0)
            shares[row] = (wins + 0.5) / (len(offers) + 1)
        return math.log(self.size) + shares[live].log()


def solve_pools(pooled: Pooled) -> PoolLaw:
    """Solves many small pools for each datum of a small set, see :class:`PoolLaw`.

    Arguments:
        pooled: The pools, of at least two data.
    """
    ranked = Seen.through(pooled.space, take(pooled.data, pooled.members)).ranked
    draws, rest = pooled.draws("small pools"), pooled.size - 1
    noise = torch.randn(POOLS, rest, ranked.shape[1], generator=draws, dtype=torch.float64)
    order = torch.rand(len(ranked), POOLS, len(ranked) - 1, generator=draws).argsort(2)[:, :, :rest]
    # The others of a datum: all places but its own.
    others = order + (order >= torch.arange(len(ranked))[:, None, None])
    chains = torch.stack([_chains((ranked[places] * 1.0) @ noise.transpose(1, 2)) for places in others])
    return PoolLaw(pooled.space, pooled.size, ranked, others, noise, chains)


def _chains(scores: Tensor) -> Tensor:
    """The best total of each pool without a row and a column, less that of all, with shape (R, n, n)."""
    size = scores.shape[1]
    without = torch.zeros_like(scores)
    for row, column in itertools.product(range(size), repeat=2):
        rows = [place for place in range(size) if place != row]
        columns = [place for place in range(size) if place != column]
        orders = torch.tensor(list(itertools.permutations(columns)), dtype=torch.long).view(-1, size - 1)
        without[:, row, column] = scores[:, torch.tensor(rows, dtype=torch.long), orders].sum(2).amax(1)
    best = (without[:, 0] + scores[:, 0]).amax(1)
    return without - best[:, None, None]
