"""Sharded training (FSDP2, arXiv 2304.11277): each process keeps a part of every weight.

The same holds for its moving average and the optimiser's state. The weights of a block are gathered for as long as it
is computed with.

Only what goes to the disk or comes from it has to know. Whole tensors are gathered for a checkpoint, so that it is the
same as without sharding, and split when it is read. All that the network computes, all processes compute together,
samples included.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from immiscible.errors import InputError

# Their weights are gathered together, a block at a time; what is in none of them stays with the whole network.
BLOCKS = ("ResidualBlock", "ResnetBlock2D", "BasicTransformerBlock", "Attention")


def check_sharding(cpu: bool) -> None:
    """Checks that a network can be sharded here.

    Raises:
        InputError: On a single process, which has nobody to share with, or on the CPU beside a GPU.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        raise InputError(
            "--sharding fsdp needs several processes, got 1: start them with torchrun --nproc-per-node N, or leave the "
            "flag out."
        )
    if cpu and torch.accelerator.is_available():
        raise InputError("--sharding fsdp must train on the GPU that is here, got --device cpu: hide the GPU.")


def shard(network: nn.Module, accelerator: Accelerator) -> None:
    """Leaves each process a part of each weight, on its device. An optimiser has to be made of these parts.

    It is torch's own call, since accelerate's silently does nothing on the CPU. Weights are gathered and gradients are
    summed in float32; the loop's autocast alone decides what is computed in less.
    """
    # FSDP2 cannot know that nothing here writes into what a network returns.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    # The inner ones first.
    for module in reversed(list(network.modules())):
        if type(module).__name__ in BLOCKS and module is not network:
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    fully_shard(network, mesh=mesh)


@contextmanager
def unsynchronised(accelerator: Accelerator, network: nn.Module) -> Iterator[None]:
    """A context in which gradients are added up in each process, for micro-batches that others follow."""
    if not isinstance(network, FSDPModule):
        with accelerator.no_sync(network):
            yield
        return
    network.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        network.set_requires_gradient_sync(True)


def reshard(network: nn.Module) -> None:
    """Drops gathered weights, so that the next pass gathers them as they are by then.

    The weights outside of all blocks are kept from one forward pass to the backward pass after it. Where none comes,
    they would be taken for those of the next step.
    """
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def all_finite(accelerator: Accelerator, tensors: Mapping[str, Tensor]) -> bool:
    """Whether no value is infinite or NaN, in any process."""
    parts = (tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors.values())
    with torch.no_grad():
        finite = all(bool(part.isfinite().all()) for part in parts)
    everywhere = accelerator.gather(torch.tensor([int(finite)], device=accelerator.device))
    return bool(torch.as_tensor(everywhere).all())


def gathered(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Whole tensors by their names, all processes together; those that do not ``keep`` them get none."""
    whole = {}
    # In an order that all share: what was read from a file comes in another order in each process.
    for name, tensor in sorted(tensors.items()):
        full = tensor.full_tensor().detach().cpu() if isinstance(tensor, DTensor) else tensor
        if keep:
            whole[name] = full
    return whole


def gathered_state(state: dict[str, Any], keep: bool) -> dict[str, Any]:
    """An optimiser's state with whole tensors, see :func:`gathered`."""
    return {**state, "state": {index: gathered(values, keep) for index, values in sorted(state["state"].items())}}


def split(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This process's parts of whole tensors, split as the tensors of the same names are."""
    return {name: _part(tensor, like[name]) for name, tensor in tensors.items()}


def split_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's state with this process's parts of whole tensors."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    parts = {
        index: {name: _part(value, weights[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": parts}


def _part(tensor: Tensor, like: Tensor) -> Tensor:
    # Numbers that an optimiser counts per weight are not sharded.
    if not isinstance(like, DTensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
