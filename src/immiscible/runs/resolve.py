"""The configuration of a run once its data is known."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from immiscible.config.groups import NetworkFields, OfTheUNet, RunConfig
from immiscible.config.values import check_needs, kinds
from immiscible.couplings import parse_coupling
from immiscible.couplings.parts import pooled_by_run
from immiscible.data import Images
from immiscible.networks import choose

C = TypeVar("C", bound=RunConfig)


def resolve(config: C, data: Images) -> C:
    """The configuration with its coupling in its own spelling and the network that ``auto`` stands for."""
    network = {"network": choose(config.network, data.shape)} if isinstance(config, NetworkFields) else {}
    found = dataclasses.replace(config, coupling=str(pooled_by_run(parse_coupling(config.coupling))), **network)
    if isinstance(config, NetworkFields) and config.network == "auto":
        # Presets that set what only the U-Net has name it.
        check_needs(found, [name for name, kind in kinds(type(found)).items() if kind.needs == OfTheUNet])
    return found
