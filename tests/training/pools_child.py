"""One rank of the tests of pools in training: hands out the micro-batches of a few windows and writes their noise.

Run by torchrun with the directory to write to.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from immiscible import ConditionSpace, CostSpace, InputError, InSpace, LinearAssignment, Mixed, ResidualSpace
from immiscible.couplings.distributed.ranks import Ranks
from immiscible.training.pairing import Pairing, Stopwatch
from immiscible.training.pools import Pools, Windows
from immiscible.training.sources import Drawn

CPU = torch.device("cpu")
BATCH, DIMS, ACCUMULATION, SIZE, STEPS = 10, (2, 4, 4), 2, 3, 6
SHAPE = torch.Size((BATCH, *DIMS))
PLACES = [(step, micro) for step in range(STEPS) for micro in range(ACCUMULATION)]


class Sorted:
    """A coupling of a user's own: pairs by rank along the first value, within classes if there are any."""

    def order(self, x: Tensor, noise: Tensor, *, labels: Any = None, generator: Any = None) -> Tensor:
        order = torch.empty(len(x), dtype=torch.int64)
        classes = torch.zeros(len(x)) if labels is None else labels
        for one in classes.unique():
            group = (classes == one).nonzero()[:, 0]
            data, drawn = (group[values.flatten(1)[group, 0].argsort()] for values in (x, noise))
            order[data] = drawn
        return order

    def __call__(self, x: Tensor, noise: Tensor, *, labels: Any = None, generator: Any = None) -> Tensor:
        return noise[self.order(x, noise, labels=labels, generator=generator)]


COUPLINGS: dict[str, Any] = {
    "exact": LinearAssignment(),
    "blocks": LinearAssignment(16),
    "slabs": LinearAssignment(16, "slabs"),
    "often": Mixed(LinearAssignment(), 0.5),
    "centred": InSpace(LinearAssignment(), CostSpace(centre=torch.full(DIMS, 0.5))),
    "residuals": InSpace(
        LinearAssignment(),
        ResidualSpace(torch.ones(2), torch.linspace(-2, 1, 64).view(2, 32), torch.zeros(DIMS), torch.full(DIMS, 2.0)),
    ),
    "conditions": InSpace(LinearAssignment(), ConditionSpace(torch.tensor(0.7), torch.ones(2), torch.full(DIMS, 0.5))),
    "own": Sorted(),
    "own often": Mixed(InSpace(Sorted(), CostSpace(centre=torch.full(DIMS, 0.5))), 0.5),
}


def data(step: int, micro: int, rank: int) -> Drawn:
    draws = torch.Generator().manual_seed(1000 * rank + 10 * step + micro)
    x = torch.randn(SHAPE, generator=draws) + 0.5
    return Drawn(x, x.flatten(1)[:, :2] * 3, torch.randint(0, 3, (BATCH,), generator=draws))


def pairing(name: str) -> Pairing:
    return Pairing(COUPLINGS[name], 5, Stopwatch(CPU))


def noises(name: str, rank: int, classes: bool, background: bool, broken: bool = False) -> Tensor:
    """All noise that this rank is handed out."""

    def draw(step: int, micro: int) -> Drawn:
        drawn = data(step, micro, rank)
        if broken and rank == 1:
            drawn.x[0] = torch.nan
        return drawn if classes else Drawn(drawn.x, drawn.condition)

    pools = Pools(pairing(name), draw, Ranks.of(), Windows(SIZE, ACCUMULATION, STEPS), background)
    try:
        return torch.cat([pools.pairs(*place)[1] for place in PLACES])
    finally:
        pools.close()


def main() -> None:
    out = Path(sys.argv[1])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = {
        f"{name} {classes} {background}": noises(name, rank, classes, background)
        for name in COUPLINGS
        for classes in (False, True)
        for background in (True, False)
    }
    told = ""
    try:
        noises("exact", rank, False, True, broken=True)
    except InputError as error:
        told = str(error)
    save_file(found, out / f"rank-{rank}.safetensors", {"told": told})
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
