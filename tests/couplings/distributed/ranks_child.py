"""One rank of the tests of global pools: couples its part of every scenario and writes what it got.

Run by torchrun with the directory to write to.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

import immiscible
from immiscible import CostSpace, InputError, InSpace, LinearAssignment, Mixed, Pool

TOTAL, DIMS = 210, (2, 5, 4)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data() -> tuple[Tensor, Tensor, Tensor]:
    draws = seeded(0)
    x, noise = torch.randn(2, TOTAL, *DIMS, generator=draws)
    return x * torch.linspace(0.1, 2, 4), noise, torch.randint(0, 4, (TOTAL,), generator=draws)


def shares(size: int) -> dict[str, list[int]]:
    """How many data each rank has: as many, unequal, none on one."""
    return {
        "even": [TOTAL // size] * size,
        "unequal": [TOTAL - 20 * (size - 1), *[20] * (size - 1)],
        "none": [0, TOTAL - 10 * (size - 2), *[10] * (size - 2)],
    }


def with_condition(x: Tensor, noise: Tensor, **others: Any) -> Tensor:
    """Noise moves between data that are alike in three of their numbers."""
    assignment = LinearAssignment(pool="global")
    return assignment(x, noise, condition=x.flatten(1)[:, :3], condition_weight=2.0, **others)


COUPLINGS: dict[str, Any] = {
    "exact": LinearAssignment(pool="global"),
    "block": LinearAssignment(50, pool="global"),
    "auction": LinearAssignment(solver="auction", pool="global"),
    "sinkhorn": LinearAssignment(solver="sinkhorn", pool="global"),
    "slabs": LinearAssignment(64, "slabs", "global"),
    "worst": LinearAssignment(pool="global", goal="worst"),
    "entropic": LinearAssignment(pool="global", temperature=0.5),
    "condition": with_condition,
    "often": Mixed(LinearAssignment(pool="global"), 0.9),
    "seldom": Mixed(LinearAssignment(pool="global"), 0.1),
    "space": InSpace(LinearAssignment(pool="global"), CostSpace(centre=torch.ones(DIMS), basis=torch.eye(40)[:6])),
    "centred": InSpace(LinearAssignment(pool="global"), CostSpace(centre=torch.ones(DIMS))),
    "both": Mixed(InSpace(LinearAssignment(pool="global"), CostSpace(centre=torch.ones(DIMS))), 0.5),
}


def couple(name: str, x: Tensor, noise: Tensor, labels: Tensor | None, seed: int) -> Tensor:
    return COUPLINGS[name](x, noise, labels=labels, generator=seeded(seed))


def refusals(rank: int, size: int) -> dict[str, str]:
    """What every rank is told when one of them brings something wrong."""
    x, noise = torch.randn(2, 6, 3, generator=seeded(rank))
    broken = x.clone()
    broken[0, 0] = torch.nan
    last = rank == size - 1
    cases = {
        "nan": lambda: COUPLINGS["exact"](broken if last else x, noise),
        "dtype": lambda: COUPLINGS["exact"](x.long() if last else x, noise),
        "size": lambda: COUPLINGS["exact"](x[:, :2] if last else x, noise[:, :2] if last else noise),
        "labels": lambda: COUPLINGS["exact"](x, noise, labels=torch.arange(6) if last else None),
        "condition": lambda: with_condition(broken if last else x, noise),
        "nobody": lambda: COUPLINGS["exact"](x[:0], noise[:0]),
        "pool": lambda: next(pool(100)([broken if last else x])),
        "key": lambda: next(keyed(100)([{} if last else {"x": x}])),
        "reading": lambda: next(pool(100)(reading(x, last))),
        "resuming": lambda: next(resuming(100)([x] if last else [x, x])),
        "place": lambda: next(resuming(100)([x, x], first=3 if last else 0)),
        "shape": lambda: next(
            coarse_pool(100)([x[:, :, None, None] if last else x[:, :, None, None].expand(6, 3, 2, 2)])
        ),
        "dtype of a pool": lambda: next(pool(100)([x.double() if last else x])),
        "loader": lambda: next(pool(100)([] if last else [x])),
    }
    return {name: refusal(case) for name, case in cases.items()}


def keyed(size: int) -> Pool:
    return Pool(COUPLINGS["block"], size, data=lambda batch: batch["x"])


def coarse_pool(size: int) -> Pool:
    return Pool(InSpace(COUPLINGS["exact"], CostSpace(pool=2)), size)


def resuming(size: int) -> Pool:
    resumed = pool(size)
    resumed.load_state_dict({**resumed.state_dict(), "first_batch": 2})
    return resumed


def reading(x: Tensor, fails: bool) -> Iterator[Tensor]:
    yield x
    if fails:
        raise OSError("the disk is gone")
    yield x


def refusal(case: Callable[[], Any]) -> str:
    """The one line that something is refused by."""
    try:
        case()
    except (InputError, KeyError, OSError) as error:
        return str(error)
    raise AssertionError("it was not refused")


def wrapped(couple: Any, x: Any, noise: Any, labels: Any = None, generator: Any = None) -> None:
    couple(x, noise, labels=labels, generator=generator)


def in_block(x: Any, noise: Any, labels: Any = None, generator: Any = None) -> None:
    with immiscible.coupled(COUPLINGS["exact"], x, labels=labels, generator=generator):
        # No rank may come here.
        raise AssertionError


ASSIGNMENT = COUPLINGS["exact"]
WRAPPERS: dict[str, Callable[..., None]] = {
    name: functools.partial(wrapped, coupling)
    for name, coupling in {
        "alone": ASSIGNMENT,
        "heads": Mixed(ASSIGNMENT, 1),
        "tails": Mixed(ASSIGNMENT, 0),
        "centred": InSpace(ASSIGNMENT, CostSpace(centre=torch.ones(2, 4, 4))),
        "pooled": InSpace(ASSIGNMENT, CostSpace(pool=2)),
        "twice": Mixed(InSpace(Mixed(ASSIGNMENT, 1), CostSpace(pool=2)), 1),
    }.items()
} | {"coupled": in_block}


def broken(x: Tensor) -> Tensor:
    x = x.clone()
    x[-1, 0, 0] = torch.nan
    return x


# What one rank brings, made of what it should bring, and what it is told.
WRONG: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Any, ...]], str]] = {
    "list": (lambda x, noise: (list(x), noise), "`x` must be a torch.Tensor, got list"),
    "none": (lambda x, noise: (None, noise), "`x` must be a torch.Tensor, got NoneType"),
    "noise": (lambda x, noise: (x, list(noise)), "`noise` must be a torch.Tensor, got list"),
    "fewer": (lambda x, noise: (x, noise[:-1]), "`x` and `noise` must have the same shape"),
    "shape": (lambda x, noise: (x, noise.flatten(1)), "`x` and `noise` must have the same shape"),
    "whole": (lambda x, noise: (x.long(), noise), "`x` must have a real floating dtype"),
    "nan": (lambda x, noise: (broken(x), noise), "`x` must be finite"),
    "nan noise": (lambda x, noise: (x, broken(noise)), "`noise` must be finite"),
    "scalar": (lambda x, noise: (x.sum(), noise.sum()), "`x` must have shape"),
    "no values": (lambda x, noise: (x[:, :0], noise[:, :0]), "`x` must have shape"),
    "labels": (lambda x, noise: (x, noise, torch.arange(5)), "`labels` must have shape"),
    "float labels": (lambda x, noise: (x, noise, torch.rand(6)), "`labels` must be an integer tensor"),
    "list of labels": (lambda x, noise: (x, noise, [0] * 6), "`labels` must be an integer tensor"),
    "empty and wrong": (lambda x, noise: (x[:0], noise), "`x` and `noise` must have the same shape"),
    "seed": (lambda x, noise: (x, noise, None, 5), "`generator` must be a torch.Generator, got int"),
    "elsewhere": (
        lambda x, noise: (x, noise, None, SimpleNamespace(device=torch.device("cuda"))),
        "`generator` must be on the device",
    ),
}
# What fits only by itself, and is told on all alike.
UNLIKE: dict[str, Callable[[Tensor, Tensor], tuple[Any, ...]]] = {
    "float64": lambda x, noise: (x.double(), noise.double()),
    "labelled": lambda x, noise: (x, noise, torch.arange(6)),
}
# What the noise has no part in, or that fits: where all ranks toss tails, and where coarse noise has one dtype anyway.
LEFT_OUT = {("coupled", case) for case in ("noise", "fewer", "shape", "nan noise", "empty and wrong", *UNLIKE)} | {
    *(("tails", case) for case in UNLIKE),
    ("pooled", "float64"),
    ("twice", "float64"),
}
CASES = [(wrapper, case) for wrapper in WRAPPERS for case in (*WRONG, *UNLIKE) if (wrapper, case) not in LEFT_OUT]


def refusals_of_wrappers(rank: int, size: int) -> dict[str, str]:
    """What every rank is told by what wraps an assignment when the last one brings something wrong."""
    told = {}
    for wrapper, case in CASES:
        x, noise = torch.randn(2, 6, 2, 4, 4, generator=seeded(rank))
        brought: tuple[Any, ...] = x, noise
        if rank == size - 1:
            brought = UNLIKE[case](x, noise) if case in UNLIKE else WRONG[case][0](x, noise)
        told[f"{wrapper} {case}"] = refusal(lambda brought=brought, wrapper=wrapper: WRAPPERS[wrapper](*brought))
    odd = torch.randn(6, 2, 3, 3, generator=seeded(rank))
    even = torch.randn(6, 2, 4, 4, generator=seeded(rank))
    last = odd if rank == size - 1 else even
    told["cells"] = refusal(lambda: WRAPPERS["pooled"](last, last))
    same, other = torch.randn(2, 6, 2, 4, 4, generator=seeded(0))
    for wrapper in ("alone", "heads", "pooled"):
        told[f"same {wrapper}"] = refusal(lambda wrapper=wrapper: WRAPPERS[wrapper](even, same))
        # The same data are warned of only.
        WRAPPERS[wrapper](same, other if rank == 0 else even)
    return told


def sub_group(rank: int, size: int) -> dict[str, Tensor]:
    """The last two ranks share a pool of their own."""
    group = dist.new_group([size - 2, size - 1])
    if rank < size - 2:
        return {}
    x, noise, _ = data()
    part = slice(0, 100) if rank == size - 2 else slice(100, TOTAL)
    return {"group": LinearAssignment(pool="global", group=group)(x[part], noise[part])}


def batches(rank: int, size: int) -> tuple[Tensor, ...]:
    """The loader of a rank: batches of ten of its part of the data, which is smaller on the last rank."""
    counts = shares(size)["unequal"]
    return data()[0][sum(counts[:rank]) : sum(counts[: rank + 1])].split(10)


def pool(size: int, background: bool = True) -> Pool:
    return Pool(COUPLINGS["block"], size, seed=3, background=background)


def pooled(rank: int, size: int) -> dict[str, Tensor]:
    """Noise of pools over the ranks, whose loaders end at different times, also resumed in the middle of one."""
    loader, found = batches(rank, size), {}
    for background in (True, False):
        handed_out = list(pool(40 * size, background)(loader))
        torch.testing.assert_close([x for x, _ in handed_out], [*loader], rtol=0, atol=0)
        found[f"pooled {background}"] = torch.cat([noise for _, noise in handed_out])
    seen, states = [], []
    first = pool(40 * size)
    for _, noise in first(loader):
        seen.append(noise)
        states.append(first.state_dict())
    # All ranks are done with one batch of the first pool, and the last rank's loader has no other.
    again = pool(40 * size)
    again.load_state_dict(states[0])
    found["resumed"] = torch.cat([*seen[:1], *(noise for _, noise in again(loader))])
    found["buckets"] = torch.cat([noise.flatten() for _, noise in coarse_pool(10**6)(buckets(rank, size))])
    return found


def buckets(rank: int, size: int) -> list[Tensor]:
    """Batches of several shapes; each rank has some of the three, and only neighbours share one."""
    shapes = [(2, 4, 4), (2, 2, 8), (2, 8, 2)]
    draws = seeded(rank)
    return [
        torch.randn(3, *shapes[kind], generator=draws) + 0.3 for _ in range(4) for kind in (rank % 3, (rank + 1) % 3)
    ]


def main() -> None:
    out = Path(sys.argv[1])
    # A rank that waits for one that raised fails soon.
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    rank, size = dist.get_rank(), dist.get_world_size()
    handler = logging.FileHandler(out / f"log-{rank}")
    logging.getLogger("immiscible").addHandler(handler)
    logging.getLogger("immiscible").setLevel(logging.INFO)
    x, noise, labels = data()
    found: dict[str, Tensor] = sub_group(rank, size)
    for share, counts in shares(size).items():
        part = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        for name in COUPLINGS:
            for classes in (None, labels):
                wanted = None if classes is None else classes[part]
                # Ranks other than the first have another generator, as they do in training.
                key = f"{name} {share} {classes is not None}"
                found[key] = couple(name, x[part], noise[part], wanted, 7 + rank).clone()
    found |= pooled(rank, size)
    own = LinearAssignment()(x[:20], noise[:20])
    torch.testing.assert_close(own, immiscible.LinearAssignment()(x[:20], noise[:20]), rtol=0, atol=0)
    told = refusals(rank, size) | refusals_of_wrappers(rank, size)
    save_file(found, out / f"rank-{rank}.safetensors", told)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
