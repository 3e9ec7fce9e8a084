r"""Whether the map of a model inherits the coupling that it was trained with.

A coupling brings data and noise closer to each other than chance does. A model maps starts to samples, and a map has a
transport cost too: the mean of :math:`|x - n|^2 / D` between start and sample. Beside it stand what the same starts
and samples cost in pairs by chance, and in the best pairs (which arXiv 2302.00482 trains towards); and, for the
training, what the coupling's own pairs cost, and independent ones. A model of independent pairs costs less than chance
as well: its paths cannot cross, so its map is shorter than the pairs it learnt from (arXiv 2209.03003, theorem 3.5).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from immiscible.config.groups import inputs_of
from immiscible.couplings import LinearAssignment
from immiscible.couplings.protocol import rows
from immiscible.couplings.spaces import given
from immiscible.data import Images
from immiscible.inspection.subject import SEED, NotApplicable, Subject
from immiscible.runs.banner import Pooling
from immiscible.runs.cost_space import Ranking
from immiscible.runs.open import Run
from immiscible.seeds import generator
from immiscible.training.sources import condition_of

# Pairs of the training that the mean is taken of, and the largest pool: an assignment of more takes a while.
PAIRS, LARGEST_POOL = 4096, 2048


@dataclass(frozen=True)
class Cost:
    """Mean squared distances per value between data and noise.

    Attributes:
        paired: Of the pairs as they are.
        chance: Of the same data and noise in pairs by chance.
        best: Of the same in the pairs of the least cost; None where there are too many.
    """

    paired: float
    chance: float
    best: float | None = None

    @property
    def reduction(self) -> float:
        """How much less than by chance, in per cent."""
        return 100 * (1 - self.paired / self.chance)

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return asdict(self) | {"reduction": self.reduction}


def cost_of(x: Tensor, noise: Tensor, labels: Tensor | None = None, best: bool = True) -> Cost:
    r"""The cost of pairs of data and noise.

    Arguments:
        x: The data, with shape (B, \*), B at least 2.
        noise: The noise of each, with the same shape.
        labels: The class of each, with shape (B,), where only pairs within classes are meant.
        best: Whether the best pairs are looked for.
    """
    data, drawn = rows(x).double(), rows(noise).double()
    groups = torch.zeros(len(data), dtype=torch.long) if labels is None else labels.cpu()
    by_chance = torch.cat([_by_chance(data[groups == group], drawn[groups == group]) for group in groups.unique()])
    assigned = LinearAssignment()(data.float(), drawn.float(), labels=groups).double() if best else None
    return Cost(
        _mean(data, drawn),
        by_chance.mean().item(),
        None if assigned is None else _mean(data, assigned),
    )


def _mean(data: Tensor, noise: Tensor) -> float:
    return (data - noise).square().mean().item()


def _by_chance(data: Tensor, noise: Tensor) -> Tensor:
    """The mean cost of each datum with all noises, with shape (B,)."""
    squares = data.square().sum(1) + noise.square().sum(1).mean()
    return (squares - 2 * data @ noise.mean(0)) / data.shape[1]


def model_cost(subject: Subject, count: int, seed: int = SEED) -> Cost:
    """The transport cost of a model's map from starts to samples.

    Arguments:
        subject: The network.
        count: How many starts.
        seed: The seed of the starts.

    Raises:
        NotApplicable: If samples and starts have different shapes.
    """
    start = subject.start(count, seed)
    noise = start.noise.cpu()
    if subject.task.paths == "none":
        x = subject.draw(start) * subject.scale
        if x.shape != noise.shape:
            raise NotApplicable(f"starts of {subject.row.title} have another shape than samples")
    else:
        # Where fresh noise comes in, only the first step maps the start.
        x = subject.ends(start, subject.steps if subject.task.paths == "smooth" else 1)
    labels = start.labels if subject.task.classes else None
    return cost_of(x, noise, labels, best=count <= LARGEST_POOL)


def training_cost(run: Run, data: Images, processes: int = 1, pairs: int = PAIRS) -> Cost:
    """What a run's coupling brings about: the cost of its own pairs beside independent ones.

    Arguments:
        run: The run.
        data: Its data.
        processes: How many processes trained it.
        pairs: About how many pairs.
    """
    points = run.task.source(data, run.device).points()
    coupling = Ranking.fit(run.config, points).coupling()
    size = min(Pooling.of(run.config, processes).together, LARGEST_POOL, len(points))
    batches, costs = max(1, -(-pairs // size)), []
    for batch in range(batches):
        draws = generator("cpu", run.config.seed, "transport", batch)
        index = torch.randperm(len(points), generator=draws)[:size]
        x, groups = points.batch(index)
        x = x * inputs_of(run.config).data_scale
        noise = torch.randn(x.shape, generator=draws)
        here = given(coupling, condition_of(points, index))
        coupled = here(x, noise, labels=groups if run.task.grouped else None, generator=draws)
        costs.append([_mean(x.double(), coupled.double()), _mean(x.double(), noise.double())])
    own, independent = torch.tensor(costs, dtype=torch.float64).mean(0).tolist()
    return Cost(own, independent)
