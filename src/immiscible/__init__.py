"""Faster training of diffusion and flow-matching models by choosing which noise goes with which datum.

>>> import torch, immiscible
>>> x = torch.randn(16, 3, 8, 8)
>>> noise = torch.randn_like(x)
>>> noise = immiscible.LinearAssignment()(x, noise)

The names are imported at their first use, since they import torch and the command line, which lies in this package too,
answers without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from immiscible.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from immiscible.couplings import (
        KNN,
        Cells,
        Components,
        ConditionSpace,
        CostSpace,
        Coupling,
        Description,
        Independent,
        InSpace,
        LinearAssignment,
        Mixed,
        Mixture,
        Pool,
        Potentials,
        Reservoir,
        ResidualSpace,
        SemidiscreteSampler,
        assign,
        coupled,
        coupling,
        describe,
        fit_potentials,
        noise_from,
        noise_like,
        permutation,
    )
    from immiscible.couplings.source import Source

    source: Callable[[Path | str], Source]

__version__ = "0.1.0"

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
    "InputError",
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
    "permutation",
]

# Names that need what trains, with the modules where they are. No import says it, since couplings
# may not import what is above them.
ELSEWHERE = {"source": "immiscible.runs.source"}


def __getattr__(name: str) -> Any:
    if name not in __all__ and name not in ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(ELSEWHERE.get(name, "immiscible.couplings")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *ELSEWHERE})
