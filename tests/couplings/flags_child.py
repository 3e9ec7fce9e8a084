"""One rank of the test of pools over loaders that accelerate shares out: takes steps with and without a pool.

Run by torchrun.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

from immiscible import LinearAssignment, Pool

spec = importlib.util.spec_from_file_location("test_loader_flags", Path(__file__).with_name("test_loader_flags.py"))
assert spec is not None
assert spec.loader is not None
flags = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(flags)


def loaders(count: int) -> dict[str, Any]:
    rows = TensorDataset(flags.rows(count))
    shared, split, dispatched = (
        flags.accelerator_with(**settings)
        for settings in ({}, {"split_batches": True}, {"dispatch_batches": True, "split_batches": True})
    )
    return {
        "shared": lambda: shared.prepare(DataLoader(rows, 2)),
        "split": lambda: split.prepare(DataLoader(rows, 2)),
        "dispatched": lambda: dispatched.prepare(DataLoader(rows, 2)),
        "streamed": lambda: dispatched.prepare(DataLoader(flags.Stream(count), 2)),
    }


def check(accelerator: Accelerator, name: str, make: Any, spanned: str, background: bool) -> None:
    expected = flags.Run(accelerator).all(make())
    pool = Pool(LinearAssignment(pool=spanned), 10, background=background)  # pyright: ignore[reportArgumentType]
    found = flags.Run(accelerator).all(pool(make()))
    assert found == expected, (name, spanned, background, found, expected)
    # Each epoch ends with a step of its own.
    assert expected.steps[-1] == len(expected.seen)
    assert accelerator.gradient_state.active_dataloader is None


def main() -> None:
    accelerator = flags.accelerator_with()
    assert accelerator.num_processes == 2
    for count in (40, 37):
        for name, make in loaders(count).items():
            for spanned in ("batch", "global"):
                for background in (True, False):
                    check(accelerator, name, make, spanned, background)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
