"""Which noise goes with which datum. Knows no model, no task and no file."""

from immiscible.couplings.assignment import LinearAssignment
from immiscible.couplings.cells import Cells
from immiscible.couplings.components import Components
from immiscible.couplings.conditions import ConditionSpace
from immiscible.couplings.explain import Description, describe, noise_like
from immiscible.couplings.hidden import coupled
from immiscible.couplings.knn import KNN
from immiscible.couplings.mixed import Mixed
from immiscible.couplings.modes import Mixture
from immiscible.couplings.order import permutation
from immiscible.couplings.parsing import parse_coupling
from immiscible.couplings.pool import Pool
from immiscible.couplings.protocol import Coupling, Independent
from immiscible.couplings.reservoir import Reservoir
from immiscible.couplings.residuals import ResidualSpace
from immiscible.couplings.semidiscrete import Potentials, SemidiscreteSampler, fit_potentials, noise_from
from immiscible.couplings.solvers.dense import assign
from immiscible.couplings.spaces import CostSpace, InSpace

# The public name.
coupling = parse_coupling

__all__ = [
    "KNN",
    "Cells",
    "Components",
    "ConditionSpace",
    "CostSpace",
    "Coupling",
    "Description",
    "InSpace",
    "Independent",
    "LinearAssignment",
    "Mixed",
    "Mixture",
    "Pool",
    "Potentials",
    "Reservoir",
    "ResidualSpace",
    "SemidiscreteSampler",
    "assign",
    "coupled",
    "coupling",
    "describe",
    "fit_potentials",
    "noise_from",
    "noise_like",
    "parse_coupling",
    "permutation",
]
