"""How the processes of a run come together: again after a failure, and to talk without their GPUs.

torchrun keeps the store in which processes leave their addresses, and torch 2.13 reads and writes there without regard
to the attempt. A process that is started again may find the address that another had before it was killed, and connects
to nobody. So later attempts leave theirs under names of their own.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from immiscible.couplings.distributed.ranks import Ranks


def join_again(cpu: bool) -> None:
    """Initialises the process group where this is a later attempt of torchrun's; otherwise accelerate does.

    Arguments:
        cpu: Whether the processes train on the CPU although there may be a GPU.
    """
    environment = os.environ
    attempt = environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    shared = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if attempt == "0" or not shared or environment.get("WORLD_SIZE", "1") == "1" or dist.is_initialized():
        return
    store = TCPStore(
        environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), is_master=False, wait_for_workers=False
    )
    dist.init_process_group(
        "gloo" if cpu or not torch.cuda.is_available() else "nccl",
        store=PrefixStore(f"immiscible/attempt-{attempt}", store),
        rank=int(environment["RANK"]),
        world_size=int(environment["WORLD_SIZE"]),
    )


def ranks_on_cpu() -> Ranks:
    """The processes of this run, to exchange small things without waiting for what is queued on a GPU.

    All processes must call it together.
    """
    ranks = Ranks.of()
    if ranks.size == 1 or ranks.device(torch.device("cpu")).type == "cpu":
        return ranks
    return Ranks(dist.new_group(backend="gloo"), ranks.rank, ranks.size)
