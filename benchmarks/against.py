"""Whether couplings have become slower: this code and that of another checkout, call by call in turn.

    git worktree add ../old 4e53558
    python benchmarks/against.py --old ../old           prints the ratios, and writes benchmarks/against.csv

Each checkout runs in a process of its own; both have the same data and are asked for the same case in turn, in changing
order: for one call, or as many as last 20 ms. The ratio is now over then, the median over neighbouring answers, so a
slow spell of the machine hits both. Against itself the code should come to 1. Ends with status 1 if a ratio is above
the limit. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
CSV = HERE.with_suffix(".csv")
# Ratios above this count as slower; the same code against itself stays within it.
LIMIT = 1.1
# Pairs of calls of a case, and seconds after which no further pair is started, once there are five.
PAIRS, BUDGET = 101, 20.0
# A shorter call is repeated for this many seconds, so that waking up the process does not count.
LEAST = 0.02
# Threads of a process that has answered would otherwise spin on for a while, on a core that the other one needs.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def cases() -> dict[str, Callable[[], object]]:
    """What is timed, by names that say what and how much. Only what both checkouts have."""
    import torch
    from _images import images

    import immiscible
    from immiscible import KNN, LinearAssignment, Mixed

    pixels, labels = images(8192)[0], torch.arange(8192) % 10
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    latents = torch.randn(2, 128, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    small = torch.randn(2, 1024, 1, 16, 16, generator=torch.Generator().manual_seed(2))

    def on_images(coupling: Any, count: int, labelled: bool = False) -> Callable[[], object]:
        x, n, y = pixels[:count], noise[:count], labels[:count] if labelled else None
        return lambda: coupling(x, n, labels=y, generator=torch.Generator().manual_seed(3))

    def pooled() -> None:
        for _ in immiscible.Pool(LinearAssignment(), size=1024, seed=0)(pixels[:2048].split(64)):
            pass

    cost = -(pixels[:1024].flatten(1) @ noise[:1024].flatten(1).T)
    return {
        "KNN(8), 256x3x32x32": on_images(KNN(8), 256),
        "KNN(2.5, dot), 256x3x32x32": on_images(KNN(2.5, "dot"), 256),
        "KNN(64), 128x4x32x32": lambda: KNN(64)(*latents),
        "KNN(64), 1024x1x16x16": lambda: KNN(64)(*small),
        "KNN(100000), 128x4x32x32": lambda: KNN(100_000)(*latents),
        "assignment, N = 256": on_images(LinearAssignment(), 256),
        "assignment, N = 1024": on_images(LinearAssignment(), 1024),
        "assignment within ten classes, N = 1024": on_images(LinearAssignment(), 1024, labelled=True),
        "assignment with probability 0.5, N = 1024": on_images(Mixed(LinearAssignment(), 0.5), 1024),
        "assignment, N = 4096": on_images(LinearAssignment(), 4096),
        "blocks of 1024, N = 4096": on_images(LinearAssignment(1024), 4096),
        "auction, N = 1024": on_images(LinearAssignment(solver="auction"), 1024),
        "sinkhorn, N = 1024": on_images(LinearAssignment(solver="sinkhorn"), 1024),
        "slabs, N = 8192": on_images(LinearAssignment(solver="slabs"), 8192),
        "auto, N = 8192": on_images(LinearAssignment(solver="auto"), 8192),
        "Pool of 1024 over batches of 64": pooled,
        "assign, a cost of 1024 x 1024": lambda: immiscible.assign(cost),
    }


def work() -> None:
    """Answers each line that names a case with the milliseconds of a call of it."""
    import torch
    from _timing import THREADS, settle_allocator

    import immiscible

    torch.set_num_threads(THREADS)
    known = cases()
    settle_allocator()
    print(json.dumps({"source": immiscible.__file__, "cases": list(known)}), flush=True)
    for line in sys.stdin:
        call, calls, start = known[line.strip()], 0, time.perf_counter()
        while not calls or time.perf_counter() - start < LEAST:
            call()
            calls += 1
        print(1e3 * (time.perf_counter() - start) / calls, flush=True)


class Checkout:
    """The code of a checkout, in a process of its own."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        source = path.resolve() / "src"
        environment = {**os.environ, "PYTHONPATH": str(source), **PASSIVE}
        command = [sys.executable, str(HERE), "--worker"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process: Any = stack.enter_context(subprocess.Popen(command, env=environment, **pipes))
        facts = json.loads(self.process.stdout.readline())
        self.cases: list[str] = facts["cases"]
        if source not in Path(facts["source"]).resolve().parents:
            raise SystemExit(f"the code of {path} must be imported from {source}, got {facts['source']}.")

    def milliseconds(self, case: str) -> float:
        print(case, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def compared(now: Checkout, then: Checkout, case: str) -> dict[str, str]:
    """One line of the CSV. The first call of each warms up."""
    now.milliseconds(case), then.milliseconds(case)
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + BUDGET
    while len(pairs) < PAIRS and (len(pairs) < 5 or time.perf_counter() < end):
        order = (now, then) if len(pairs) % 2 else (then, now)
        times = {checkout: checkout.milliseconds(case) for checkout in order}
        pairs.append((times[now], times[then]))
    ratio = statistics.median(ours / before for ours, before in pairs)
    medians = [f"{statistics.median(times):.4g}" for times in zip(*pairs, strict=True)]
    found = {"case": case, "now_ms": medians[0], "then_ms": medians[1], "ratio": f"{ratio:.3f}"}
    return {**found, "target": f"<= {LIMIT}", "met": "yes" if ratio <= LIMIT else "no", "pairs": str(len(pairs))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help="the other checkout")
    parser.add_argument("--out", type=Path, default=CSV, help="the CSV (default: beside this script)")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return 0
    if options.old is None:
        print("Compares with another checkout, which --old names; nothing was measured.")
        return 0
    if not (options.old / "src" / "immiscible").is_dir():
        parser.error(f"--old must be another checkout of this repository, got {options.old}.")
    from _figures import write_figures
    from _timing import THREADS, machine, threads

    with ExitStack() as stack, threads(THREADS):
        now, then = (Checkout(path, stack) for path in (HERE.parents[1], options.old))
        rows = []
        for case in now.cases:
            if options.only in case:
                rows.append({**compared(now, then, case), "machine": machine()})
                print(" ".join(rows[-1][name] for name in ("case", "ratio", "met")), flush=True)
        for checkout in (now, then):
            checkout.process.stdin.close()
    write_figures(options.out, rows)
    return 1 if any(row["met"] == "no" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
