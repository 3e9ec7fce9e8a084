"""Whether what a checkpoint holds fits the network and the optimiser that it is to be given to.

A checkpoint whose bytes are those that were written may still be another run's, or its run's configuration may have
been edited. Then nothing is loaded: PyTorch's own complaint would fill a page, and its fused optimiser reads tensors of
another shape beyond their end.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from immiscible.config.values import told
from immiscible.errors import InputError
from immiscible.io.records import Unfit
from immiscible.training.checkpoint import AVERAGE, FILES, Checkpoint

# Of the optimiser's state for a weight, what has the weight's shape; the rest are counters, and tables of 8-bit states.
LIKE_WEIGHTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "state1", "state2")


def check_average(path: Path, weights: Mapping[str, Tensor], network: torch.nn.Module) -> None:
    """Checks that the moving average of a checkpoint is one of a network's weights.

    Raises:
        InputError: If a weight is missing, unknown, or has another shape or type.
    """
    wanted = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    try:
        check_tensors(path / AVERAGE, weights, wanted if weights.keys() == wanted.keys() else network.state_dict())
    except Unfit as error:
        raise _another(error) from None


def check_fits(
    path: Path, checkpoint: Checkpoint, weights: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Checks that a checkpoint is one of a training run.

    Arguments:
        path: Where it lies.
        checkpoint: The checkpoint, with whole tensors.
        weights: The weights that are trained, in the order in which the optimiser has them.
        optimizer: Their optimiser.

    Raises:
        InputError: If it holds other weights, or another optimiser's state.
    """
    try:
        check_tensors(path / FILES[0], checkpoint.model, weights)
        check_tensors(path / AVERAGE, checkpoint.ema, weights)
        _check_groups(path / "state.json", checkpoint.optimizer["param_groups"], optimizer)
        _check_state(path / FILES[2], checkpoint.optimizer["state"], weights)
    except Unfit as error:
        raise _another(error) from None


def check_tensors(where: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Checks names, shapes and types of tensors.

    Raises:
        Unfit: That names the first that differs.
    """
    for name in sorted(wanted.keys() - found.keys()):
        raise Unfit(f"{where} must hold `{told(name)}`, one of {len(wanted)} weights, got {len(found)} without")
    for name in sorted(found.keys() - wanted.keys()):
        raise Unfit(f"{where} must hold the {len(wanted)} weights of this network, got also `{told(name)}`")
    for name, tensor in found.items():
        _check_like(where, name, tensor, wanted[name])


def _check_like(where: Path, name: str, tensor: Tensor, like: Tensor) -> None:
    if tensor.shape != like.shape:
        raise Unfit(f"`{told(name)}` in {where} must have shape {tuple(like.shape)}, got {tuple(tensor.shape)}")
    if tensor.dtype != like.dtype:
        raise Unfit(f"`{told(name)}` in {where} must be {_named(like)}, got {_named(tensor)}")


def _check_state(where: Path, state: Mapping[int, Mapping[str, Tensor]], weights: Mapping[str, Tensor]) -> None:
    """Checks the optimiser's state: each weight has the same parts, in its own shape."""
    likes = dict(enumerate(weights.values()))
    if state and state.keys() != likes.keys():
        raise Unfit(f"{where} must hold the state of {len(likes)} weights, got those of {len(state)}")
    parts = set(next(iter(state.values()), {}))
    for index, values in state.items():
        if values.keys() != parts or not parts.intersection(LIKE_WEIGHTS):
            raise Unfit(f"{where} must hold the same of each weight, got {told(sorted(values))} of number {index}")
        for name, tensor in values.items():
            if name == "step" and (tensor.numel() != 1 or not tensor.is_floating_point()):
                raise Unfit(f"`{index}.step` in {where} must be one number, got {tuple(tensor.shape)} {_named(tensor)}")
            if name in LIKE_WEIGHTS and tensor.shape != likes[index].shape:
                wanted = tuple(likes[index].shape)
                raise Unfit(f"`{index}.{name}` in {where} must have shape {wanted}, got {tuple(tensor.shape)}")
            if name.startswith("exp_avg") and tensor.dtype != likes[index].dtype:
                raise Unfit(f"`{index}.{name}` in {where} must be {_named(likes[index])}, got {_named(tensor)}")


def _check_groups(where: Path, groups: Any, optimizer: torch.optim.Optimizer) -> None:
    """Checks the optimiser's settings: as many groups, over the same weights, with values of the same kinds."""
    own = optimizer.state_dict()["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(own):
        raise Unfit(f"`optimizer` in {where} must have {len(own)} group, got {told(groups)}")
    for group, like in zip(groups, own, strict=True):
        if not isinstance(group, dict) or group.get("params") != like["params"]:
            raise Unfit(f"`optimizer` in {where} must have a group of {len(like['params'])} weights, got {told(group)}")
        for key in ("lr", "betas", "eps", "weight_decay"):
            if key in like and not _alike(group.get(key), like[key]):
                raise Unfit(f"`{key}` of the optimizer in {where} must be like {like[key]}, got {told(group.get(key))}")
        for key, value in group.items():
            # Switches, which may differ between devices and versions.
            if isinstance(value, list | dict | str) and not isinstance(like.get(key), list | tuple | str):
                raise Unfit(f"`{key}` of the optimizer in {where} must be like {like.get(key)}, got {told(value)}")


def _alike(value: Any, like: Any) -> bool:
    """Whether a JSON value is a number where the other is one, or as many numbers."""
    if isinstance(like, list | tuple):
        return isinstance(value, list) and len(value) == len(like) and all(map(_alike, value, like))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _named(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _another(error: Unfit) -> InputError:
    return InputError(f"{error}: it is of another network, or the configuration was altered: restore the files.")
