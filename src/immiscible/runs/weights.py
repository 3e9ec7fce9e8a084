"""The averaged weights of a run: found, checked, and given to its network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from immiscible.errors import InputError
from immiscible.io.console import say
from immiscible.samplers import NotFinite
from immiscible.training.checkpoint import Damaged, checkpoints, load_average, step_of
from immiscible.training.compatibility import check_average
from immiscible.training.ema import load_weights


def averaged_weights(path: Path, step: int | None) -> tuple[int, dict[str, Tensor]]:
    """The moving average of a run's weights at a step, or at the newest that is whole, and that step.

    Raises:
        InputError: If there is no such checkpoint, or its weights are not finite.
    """
    there = checkpoints(path / "checkpoints")
    wanted = [found for found in there if step in (None, step_of(found))]
    if not wanted:
        steps = ", ".join(str(step_of(found)) for found in reversed(there)) or "none"
        named = "" if step is None else f" of step {step}"
        raise InputError(f"{path} must hold a checkpoint{named}, got steps: {steps}.")
    for found in wanted:
        try:
            weights = load_average(found)
        except Damaged as error:
            say(f"warning: damaged checkpoint, passed over: {error}")
            continue
        _check_finite(path, step_of(found), weights)
        return step_of(found), weights
    raise InputError(f"{path} must hold a whole checkpoint, got damaged ones only: run its training command again.")


def give_weights(path: Path, step: int, weights: dict[str, Tensor], network: nn.Module) -> None:
    """Gives a network the weights of a run at a step.

    Raises:
        InputError: If they are not those of this network.
    """
    check_average(path / "checkpoints" / f"step-{step}", weights, network)
    load_weights(network, weights)


def _check_finite(path: Path, step: int, weights: Mapping[str, Tensor]) -> None:
    """Checks that weights can be sampled from."""
    bad = [name for name, weight in weights.items() if not bool(weight.isfinite().all())]
    if bad:
        raise NotFinite(
            f"{path} must hold finite weights, got NaN or infinite values in {len(bad)} of {len(weights)} tensors at "
            f"step {step}, first in {bad[0]}: take another --step, or train again with a lower --learning-rate."
        )
