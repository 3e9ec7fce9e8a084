"""The optimiser that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from immiscible.config.groups import RunConfig
from immiscible.errors import InputError
from immiscible.training.ema import trained_weights

BETA2 = 0.999


def make_optimizer(config: RunConfig, network: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """AdamW over the weights that are trained, in 32 bits or, where bitsandbytes is installed, with a state of 8.

    Raises:
        InputError: If bitsandbytes is asked for and missing.
    """
    weights = list(trained_weights(network).values())
    settings: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.beta1, BETA2),
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw8bit":
        return _eight_bit()(weights, **settings)
    return torch.optim.AdamW(weights, **settings, fused=device.type in ("cpu", "cuda"))


def _eight_bit() -> Callable[..., torch.optim.Optimizer]:
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "--optimizer adamw8bit needs bitsandbytes, which is not installed: `pip install bitsandbytes`, or leave "
            "the flag out."
        ) from error
    return AdamW8bit
