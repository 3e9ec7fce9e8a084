"""What a coupling made of several is made of, where that is an assignment: what a pool has to know to pair ahead."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from immiscible.couplings.assignment import LinearAssignment
from immiscible.couplings.mixed import Mixed
from immiscible.couplings.spaces import InSpace, Raw, Space


@dataclass(frozen=True)
class Parts:
    """An assignment, and what it is wrapped in.

    Attributes:
        assignment: The assignment.
        p: The share of pools in which it couples.
        space: What it ranks in.
    """

    assignment: LinearAssignment
    p: float
    space: Space


def parts_of(coupling: Any) -> Parts | None:
    """Takes a coupling apart, or gives None if it is no assignment in at most one space."""
    p: float = 1.0
    space: Space | None = None
    while isinstance(coupling, Mixed | InSpace):
        if isinstance(coupling, Mixed):
            p *= coupling.p
        elif space is not None:
            return None
        else:
            space = coupling.space
        coupling = coupling.coupling
    return Parts(coupling, p, space or Raw()) if isinstance(coupling, LinearAssignment) else None


def pooled_by_run(coupling: Any) -> Any:
    """A coupling without ``pool="global"``, for a run that pools over all processes in any case."""
    if isinstance(coupling, Mixed | InSpace):
        return dataclasses.replace(coupling, coupling=pooled_by_run(coupling.coupling))
    return dataclasses.replace(coupling, pool="batch") if isinstance(coupling, LinearAssignment) else coupling
