"""Which noise goes with which datum. Knows no model, no task and no file."""

from immiscible.couplings.assignment import LinearAssignment
from immiscible.couplings.base import Coupling, Independent
from immiscible.couplings.explain import Description, describe, noise_like
from immiscible.couplings.hidden import coupled
from immiscible.couplings.mixed import Mixed
from immiscible.couplings.nearest import KNN
from immiscible.couplings.order import permutation
from immiscible.couplings.pool import Pool
from immiscible.couplings.solvers import assign
from immiscible.couplings.space import CostSpace, InSpace
from immiscible.couplings.spelling import coupling

__all__ = [
    "KNN",
    "CostSpace",
    "Coupling",
    "Description",
    "InSpace",
    "Independent",
    "LinearAssignment",
    "Mixed",
    "Pool",
    "assign",
    "coupled",
    "coupling",
    "describe",
    "noise_like",
    "permutation",
]
