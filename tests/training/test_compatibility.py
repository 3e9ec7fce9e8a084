from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from immiscible.errors import InputError
from immiscible.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from immiscible.training.compatibility import check_average, check_fits


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    network = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return network, optimizer


def checkpoint_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
    weights = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    return Checkpoint(7, weights, dict(weights), optimizer.state_dict(), {"loss_sum": 0.5, "loss_count": 2})


def changed(tensors: Any, name: str, value: Any) -> dict[str, Any]:
    """With another value, or without it where that is None."""
    return {
        **{key: tensor for key, tensor in tensors.items() if key != name},
        **({} if value is None else {name: value}),
    }


def with_state(found: Checkpoint, part: str, value: Any) -> Checkpoint:
    state = found.optimizer["state"]
    return dataclasses.replace(
        found, optimizer={**found.optimizer, "state": {**state, 1: changed(state[1], part, value)}}
    )


def with_group(found: Checkpoint, **values: Any) -> Checkpoint:
    group = {**found.optimizer["param_groups"][0], **values}
    return dataclasses.replace(found, optimizer={**found.optimizer, "param_groups": [group]})


CASES: dict[str, tuple[Callable[[Checkpoint], Checkpoint], str]] = {
    "weight missing": (lambda c: dataclasses.replace(c, model=changed(c.model, "1.bias", None)), "`1.bias`"),
    "weight more": (
        lambda c: dataclasses.replace(c, model=changed(c.model, "x\x1b", torch.ones(1))),
        "got also `x\\x1b`",
    ),
    "shape": (
        lambda c: dataclasses.replace(c, model=changed(c.model, "0.bias", torch.ones(6))),
        "must have shape (5,), got (6,)",
    ),
    "type": (
        lambda c: dataclasses.replace(c, ema=changed(c.ema, "0.bias", torch.ones(5).half())),
        "must be float32, got float16",
    ),
    "average": (lambda c: dataclasses.replace(c, ema={}), "ema.safetensors must hold"),
    # Fused AdamW would read and write beyond the end of it.
    "moment": (lambda c: with_state(c, "exp_avg", torch.zeros(1)), "`1.exp_avg` in"),
    "moment of another type": (
        lambda c: with_state(c, "exp_avg_sq", torch.zeros(5).double()),
        "must be float32, got float64",
    ),
    "counter": (lambda c: with_state(c, "step", torch.zeros(9)), "`1.step` in"),
    "part missing": (lambda c: with_state(c, "exp_avg", None), "must hold the same of each weight"),
    "groups": (lambda c: dataclasses.replace(c, optimizer={**c.optimizer, "param_groups": []}), "must have 1 group"),
    "no groups": (
        lambda c: dataclasses.replace(c, optimizer={**c.optimizer, "param_groups": 3}),
        "must have 1 group, got 3",
    ),
    "weights of a group": (lambda c: with_group(c, params=[0]), "must have a group of 4 weights"),
    "rate": (lambda c: with_group(c, lr="fast"), "`lr` of the optimizer"),
    "betas": (lambda c: with_group(c, betas=[0.9]), "`betas` of the optimizer"),
    "switch": (lambda c: with_group(c, amsgrad={}), "`amsgrad` of the optimizer"),
    "state of fewer": (
        lambda c: dataclasses.replace(c, optimizer={**c.optimizer, "state": {0: c.optimizer["state"][0]}}),
        "must hold the state of 4 weights, got those of 1",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_of_something_else_is_refused_before_it_is_loaded(name: str, tmp_path: Path) -> None:
    network, optimizer = trained()
    change, said = CASES[name]
    # Written and read again, so that all its checksums are right.
    path = save_checkpoint(tmp_path, change(checkpoint_of(network, optimizer)))
    with pytest.raises(InputError) as caught:
        check_fits(path, load_checkpoint(path), dict(network.named_parameters()), optimizer)
    assert said in str(caught.value)
    assert "restore the files" in str(caught.value)


def test_what_was_written_fits(tmp_path: Path) -> None:
    network, optimizer = trained()
    path = save_checkpoint(tmp_path, checkpoint_of(network, optimizer))
    found = load_checkpoint(path)
    check_fits(path, found, dict(network.named_parameters()), optimizer)
    check_average(path, found.ema, network)
    fresh = torch.optim.AdamW(network.parameters(), fused=True)
    check_fits(path, found, dict(network.named_parameters()), fresh)


def test_an_average_may_be_of_all_weights_or_of_those_that_are_trained(tmp_path: Path) -> None:
    network, _ = trained()
    network[0].requires_grad_(False)
    check_average(tmp_path, network.state_dict(), network)
    check_average(tmp_path, network[1].state_dict(prefix="1."), network)
    with pytest.raises(InputError, match=r"`0.weight`|`0.bias`"):
        check_average(tmp_path, {"1.weight": torch.ones(2, 5)}, network)
