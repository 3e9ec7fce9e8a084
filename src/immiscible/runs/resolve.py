"""The configuration of a run once its data is known."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from immiscible.config.groups import NetworkFields, OfTheUNet, RunConfig
from immiscible.config.values import check_needs, kinds
from immiscible.couplings import KNN, Independent, parse_coupling
from immiscible.couplings.parts import pooled_by_run
from immiscible.couplings.protocol import unwrap
from immiscible.networks import choose
from immiscible.tasks.base import Data

C = TypeVar("C", bound=RunConfig)


def resolve(config: C, data: Data) -> C:
    """The configuration with its coupling in its own spelling, and what ``auto`` stands for: a network, a space."""
    coupling = pooled_by_run(parse_coupling(config.coupling))
    changes: dict[str, Any] = {"coupling": str(coupling)}
    if isinstance(config, NetworkFields):
        changes["network"] = choose(config.network, data.shape)
    if config.cost_space == "auto":
        # Whatever chooses among noises by the data leaks what the condition tells of these; KNN by far the least.
        changes["cost_space"] = "raw" if isinstance(unwrap(coupling)[1], Independent | KNN) else "residual"
    found = dataclasses.replace(config, **changes)
    if isinstance(config, NetworkFields) and config.network == "auto":
        # Presets that set what only the U-Net has name it.
        check_needs(found, [name for name, kind in kinds(type(found)).items() if kind.needs == OfTheUNet])
    return found
