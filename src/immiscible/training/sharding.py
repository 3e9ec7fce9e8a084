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
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from immiscible.errors import InputError

# Their weights are gathered together, a block at a time; what is in none of them stays with the whole network.
BLOCKS = ("ResidualBlock", "ResnetBlock2D", "BasicTransformerBlock", "Attention")


def sharding_accelerator(**settings: Any) -> Accelerator:
    """An accelerator whose :func:`prepare` shards what is trained.

    Raises:
        InputError: On a single process, which has nobody to share with, or on the CPU beside a GPU.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        raise InputError(
            "--sharding fsdp needs several processes, got 1: start them with torchrun --nproc-per-node N, or leave the "
            "flag out."
        )
    if settings["cpu"] and torch.accelerator.is_available():
        raise InputError("--sharding fsdp must train on the GPU that is here, got --device cpu: hide the GPU.")
    # Weights are gathered and gradients summed in float32. The loop's autocast alone decides what is computed in less.
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap",
        mixed_precision_policy=MixedPrecisionPolicy(),
        cpu_ram_efficient_loading=False,
    )
    accelerator = Accelerator(fsdp_plugin=plugin, **settings)
    # On the CPU accelerate passes over the plugin without a word and trains replicas, although all else is there.
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        accelerator.state.fsdp_plugin = plugin
        accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def prepare(accelerator: Accelerator, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    """The network and its optimiser as they are trained, sharded if the accelerator is made for it."""
    plugin = accelerator.state.fsdp_plugin if accelerator.is_fsdp2 else None
    if plugin is not None:
        present = {type(module).__name__ for module in network.modules()}
        plugin.transformer_cls_names_to_wrap = sorted(present.intersection(BLOCKS))
        # FSDP2 cannot know that nothing here writes into what a network returns.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    return accelerator.prepare(network, optimizer)


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
