r"""Large pools in almost linear time: blocks of neighbours, several times over, on the leading components of the data.

Data and noise are compared along the :math:`q` leading principal components of the data, :math:`P`, as
:math:`-\langle P x_i, P n_j \rangle`: what lies outside of them is nearly the same for every pair. Sorting both along
the first component and pairing equal ranks solves that component alone, for everything at once. From there on the
pairing is improved in rounds. Each splits the data into blocks and lets every block redistribute the noises it has by
an exact assignment, so that the cost never rises. Blocks of neighbours along a component, slabs, leave that component
as it is and settle the others; blocks at random move noise between far ones. No round costs more than
:math:`N/b` assignments of size :math:`b`. How much is kept depends on the share of the variance that the components
hold: most of it in natural images, little in white or nearly white fields.

Source: this package; time and the share of the exact reduction that is kept are measured in the documentation.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from immiscible.couplings.solvers.dense import exact
from immiscible.couplings.solvers.threads import each

# Measured on image-like data with N = 8192 and D = 3072. More components, larger blocks and more rounds each keep more
# of the reduction and take longer; this mix keeps most for its time.
COMPONENTS = 192
BLOCK = 512
ROUNDS = 4


def slabs(points: Tensor, others: Tensor, seed: int, block: int = BLOCK, rounds: int = ROUNDS) -> Tensor:
    """Pairs points with as many others, see this module's description.

    Arguments:
        points: The data along their components, the leading one first, with shape (n, q), on the CPU.
        others: The noise along the same, with shape (n, q).
        seed: The seed of the blocks at random.
        block: The largest size of a block.
        rounds: How often the pairing is improved.

    Returns:
        The assignment, ``int64`` with shape (n,): point ``i`` takes ``others[order[i]]``.
    """
    order = torch.empty(len(points), dtype=torch.int64, device="cpu")
    order[points[:, 0].argsort(stable=True)] = others[:, 0].argsort(stable=True)
    count = -(-len(points) // block)
    for arrangement in _arrangements(points, seed, rounds if count > 1 else 1):
        parts = arrangement.tensor_split(count)
        for part, chosen in zip(
            parts, each(lambda part: _settled(points, others, part, order[part]), parts), strict=True
        ):
            order[part] = chosen
    return order


def _settled(points: Tensor, others: Tensor, part: Tensor, given: Tensor) -> Tensor:
    """What the points of a block take, of what they are given."""
    return given[exact((points[part] @ others[given].T).neg_())]


def _arrangements(points: Tensor, seed: int, rounds: int) -> Iterator[Tensor]:
    """The data in the order in which each round cuts them: along the first component, at random, along the next ..."""
    draws = torch.Generator("cpu").manual_seed(seed)
    for number in range(rounds):
        component = max(0, number - 1)
        if number == 1 or component >= points.shape[1]:
            yield torch.randperm(len(points), generator=draws, device="cpu")
        else:
            yield points[:, component].argsort(stable=True)
