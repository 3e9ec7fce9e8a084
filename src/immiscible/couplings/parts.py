"""What a coupling is made of, where that moves whole noises: what a pool has to know to pair ahead."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from immiscible.couplings.assignment import LinearAssignment
from immiscible.couplings.protocol import Coupling, Permuting, unwrap, wrap
from immiscible.couplings.spaces import Raw, Space


@dataclass(frozen=True)
class Parts:
    """A coupling that permutes, and what it is wrapped in.

    Attributes:
        assignment: What permutes.
        p: The share of pools in which it couples.
        space: What it ranks in.
    """

    assignment: Permuting
    p: float
    space: Space


def parts_of(coupling: Coupling) -> Parts | None:
    """Takes a coupling apart, or gives None if a pool cannot pair by it: it must permute, in at most one space."""
    wrappers, assignment = unwrap(coupling)
    p: float = 1.0
    spaces: list[Space] = []
    for wrapper in wrappers:
        share, space = getattr(wrapper, "p", None), getattr(wrapper, "space", None)
        if share is None and space is None:
            return None
        p *= 1 if share is None else share
        spaces += [] if space is None else [space]
    if len(spaces) > 1 or not isinstance(assignment, Permuting):
        return None
    return Parts(assignment, p, spaces[0] if spaces else Raw())


def pooled_by_run(coupling: Coupling) -> Coupling:
    """A coupling without ``pool="global"``, for a run that pools over all processes in any case."""
    wrappers, inner = unwrap(coupling)
    return wrap(wrappers, dataclasses.replace(inner, pool="batch")) if isinstance(inner, LinearAssignment) else coupling
