"""The law that the coupling of a run gives its noise, where that is not N(0, I): what its samples may start from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from immiscible.analysis.gap import Gap, measure_gap
from immiscible.config.groups import inputs_of
from immiscible.couplings.explain import claims_exact
from immiscible.couplings.induced import induced_law
from immiscible.couplings.source import NORMAL, LowRankMixture, Source, is_informed, source_of
from immiscible.data.augment import mirror
from immiscible.data.images import evenly_spaced
from immiscible.runs.cost_space import DRIFT_NOISES, IMAGES, MOST_DRIFT_POOL, Ranking
from immiscible.runs.source import SOURCE, read_source
from immiscible.seeds import generator
from immiscible.training.checkpoint import checkpoints
from immiscible.training.sources import ConditionedPoints

# No more values of noise than these are in memory.
MOST_VALUES = 2**25


def noise_law(ranking: Ranking, together: int, grouped: bool, classes: bool) -> Source:
    """The law of a run's noise: its coupling's source, one that is fitted to biased noise, or else N(0, I).

    A run that goes on has the law that it began with.

    Arguments:
        ranking: What is coupled.
        together: How many data are paired at once.
        grouped: Whether noise stays within classes.
        classes: Whether samples are drawn by class.

    Raises:
        InputError: If the law of a run that goes on is not there as it was written, or does not fit the space.
    """
    out: Path = ranking.config.out
    coupling, conditioned = ranking.coupling(), isinstance(ranking.points, ConditionedPoints)
    informed = is_informed(coupling)
    if not informed and (claims_exact(ranking.config.coupling) or conditioned):
        return NORMAL
    # Runs of earlier versions have none.
    if checkpoints(out / "checkpoints") and (informed or (out / SOURCE).exists()):
        return read_source(out)
    if informed:
        return source_of(coupling)
    x, noise, labels = _coupled(ranking, together, grouped)
    return induced_law(x[:IMAGES], noise, labels if classes else None)


def noise_gap(ranking: Ranking, law: Source, together: int, grouped: bool) -> Gap | None:
    """How far the noise of an informed coupling is from the law that samples start from; None for others.

    Arguments:
        ranking: What is coupled.
        law: That law.
        together: How many data are paired at once.
        grouped: Whether noise stays within classes, and samples are drawn by class.
    """
    if not isinstance(law, LowRankMixture) or not is_informed(ranking.coupling()):
        return None
    _, noise, labels = _coupled(ranking, together, grouped)
    return measure_gap(noise, law, labels if grouped else None)


@torch.no_grad()
def _coupled(ranking: Ranking, together: int, grouped: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Data as they are diffused, again and again where they are few, their coupled noise, and their classes."""
    inputs, points, coupling = inputs_of(ranking.config), ranking.points, ranking.coupling()
    x, labels = points.batch(evenly_spaced(len(points), DRIFT_NOISES))
    draws = generator("cpu", ranking.config.seed, "law")
    most = max(1, min(DRIFT_NOISES, MOST_VALUES // x[0].numel()))
    order = torch.cat([torch.randperm(len(x), generator=draws) for _ in range(-(-most // len(x)))])[:most]
    x, labels = x[order] * inputs.data_scale, None if labels is None else labels[order]
    if inputs.flip:
        mirrored = torch.rand(len(x), generator=draws) < 0.5
        x[mirrored] = mirror(x[mirrored])
    noise = []
    for index in torch.arange(len(x)).split(max(1, min(together, MOST_DRIFT_POOL))):
        normal = torch.randn(x[index].shape, generator=draws)
        own = labels[index] if labels is not None and grouped else None
        noise.append(coupling(x[index], normal, labels=own, generator=draws))
    return x, torch.cat(noise), labels
