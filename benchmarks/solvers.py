"""What the solvers of large pools take, need and keep, beside those of other packages, on the same data and noise.

    python benchmarks/solvers.py                      measures, prints, and writes benchmarks/solvers.csv
    python benchmarks/solvers.py --only latents       measures one of ladder, latents and others, and keeps other rows
    python benchmarks/solvers.py --pages              writes docs/results/solvers.md and the table of docs/scaling.md

The data are Fashion-MNIST's grey images, copied to three channels, and fields like latents: 4x32x32, normal, with a
power spectrum that falls as 1/f. Images are the easy case of slabs, fields like these the hard one.

Each method and size is measured in a process of its own, the noise given: the median time of whole calls, the time of
solving alone, the most memory of the process above what it had before its first call, and the mean distance between
data and noise, which the couplings are there to reduce. Ends with status 1 if a target is missed. Run it on an idle
machine.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
import math
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from _figures import write_figures
from _images import images
from _solvers_page import write_pages
from _timing import THREADS, machine, side_by_side, threads
from couplings import candidate_search, distance
from torch import Tensor

from immiscible import KNN, LinearAssignment
from immiscible.couplings.distributed.ranks import Ranks
from immiscible.couplings.distributed.solve import Share, begin
from immiscible.couplings.solvers.leading import SAMPLE, held_share
from immiscible.couplings.solvers.select import LEAST_HELD
from immiscible.couplings.solvers.slabs import COMPONENTS

CSV = Path(__file__).with_suffix(".csv")
SIZES = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
LATENT = (1024, 4096, 8192)
COMPARED = (128, 1024, 4096)
# A call that takes longer is given up, and the CSV says so.
LIMIT = 150.0
# Calls are repeated for this many seconds, and at most this often.
BUDGET, REPEATS = 4.0, 21
ROUNDS = 9
DIMS = 3072

Method = Callable[[Tensor, Tensor], Tensor]


def product(x: Tensor, noise: Tensor) -> Tensor:
    """The cost that an assignment needs, in float32."""
    return -x.flatten(1) @ noise.flatten(1).T


def with_pot(x: Tensor, noise: Tensor) -> Tensor:
    import ot

    weights = ot.unif(len(x))
    cost = torch.cdist(x.flatten(1), noise.flatten(1)).square().double().numpy()
    return noise[ot.emd(weights, weights, cost).argmax(1)]


def with_torchcfm(x: Tensor, noise: Tensor) -> Tensor:
    """Returns pairs in its own order, drawn with replacement; the distance is that of its pairs."""
    from torchcfm.optimal_transport import OTPlanSampler

    others, points = OTPlanSampler(method="exact").sample_plan(noise, x)
    x.copy_(points)
    return others


def with_scipy(x: Tensor, noise: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    return noise[linear_sum_assignment(product(x, noise).numpy())[1]]


def as_published(x: Tensor, noise: Tensor) -> Tensor:
    """Distances in float16 by a broadcast (arXiv 2406.12303), 64 rows at a time to save memory, then SciPy."""
    from scipy.optimize import linear_sum_assignment

    points, others = x.flatten(1).half(), noise.flatten(1).half()
    cost = [torch.linalg.vector_norm(some[:, None] - others, dim=2) for some in points.split(64)]
    return noise[linear_sum_assignment(torch.cat(cost).numpy())[1]]


def with_torch_linear_assignment(x: Tensor, noise: Tensor) -> Tensor:
    from torch_linear_assignment import batch_linear_assignment

    return noise[batch_linear_assignment(product(x, noise)[None])[0]]


OURS: dict[str, LinearAssignment] = {
    "exact": LinearAssignment(),
    "blocks of 1024": LinearAssignment(1024),
    "auction": LinearAssignment(solver="auction"),
    "sinkhorn": LinearAssignment(solver="sinkhorn"),
    "slabs": LinearAssignment(solver="slabs"),
    "auto": LinearAssignment(solver="auto"),
}
OTHERS: dict[str, Method] = {
    "KNN(4)": KNN(4),
    "candidate search, k = 4, as published": lambda x, noise: candidate_search(x, 4),
    "SciPy on the float32 product": with_scipy,
    "float16 broadcast and SciPy, as published": as_published,
    "torch-linear-assignment on the float32 product": with_torch_linear_assignment,
    "POT's ot.emd": with_pot,
    "torchcfm's OTPlanSampler('exact')": with_torchcfm,
}
METHODS: dict[str, Method] = {**OURS, **OTHERS}


@dataclass(frozen=True)
class Row:
    """One line of the CSV. What was not measured, or has no target, is empty."""

    question: str
    method: str
    n: int
    ms: str = ""
    min_ms: str = ""
    solve_ms: str = ""
    peak_mb: str = ""
    reduction_percent: str = ""
    kept: str = ""
    ratio: str = ""
    target: str = ""
    met: str = ""
    repeats: str = ""
    note: str = ""
    machine: str = machine()


def inputs(count: int, question: str = "ladder") -> tuple[Tensor, Tensor]:
    """Data and noise, the same for every method."""
    x = latents(count) if question == "latents" else images(count)[0]
    return x, torch.randn(x.shape, generator=torch.Generator().manual_seed(count))


def latents(count: int) -> Tensor:
    """Normal fields with shape (count, 4, 32, 32), unit variance and a power spectrum that falls as 1/f."""
    frequency = torch.cartesian_prod(*[torch.fft.fftfreq(32)] * 2).norm(dim=1).view(32, 32)
    frequency[0, 0] = frequency[0, 1]
    white = torch.randn(count, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    fields = torch.fft.ifft2(torch.fft.fft2(white) * frequency.rsqrt()).real
    return (fields / fields.std()).contiguous()


def memory(field: str) -> float:
    """A figure of this process in MB, VmRSS or VmHWM."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(rf"^{field}:\s+(\d+)", status, re.MULTILINE)[0]) / 1024


def measured(question: str, name: str, count: int) -> dict[str, float]:
    """One method at one size, measured in this process."""
    x, noise = inputs(count, question)
    data, method = x.clone(), METHODS[name]
    small = inputs(16, question)
    method(*small)
    # Freed memory does not count: the call has to ask the system for all of its memory.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    start = time.perf_counter()
    paired = method(x, noise)
    times = [time.perf_counter() - start]
    peak = memory("VmHWM") - before
    reduction = 1 - distance(x, paired) / distance(data, noise)
    while len(times) < REPEATS and sum(times) < BUDGET:
        x.copy_(data)
        start = time.perf_counter()
        method(x, noise)
        times.append(time.perf_counter() - start)
    # The first call may have met cold caches.
    timed = times[1:] or times
    solving = {"solve_ms": 1e3 * solve_seconds(OURS[name], data, noise)} if name in OURS else {}
    return {
        "ms": 1e3 * statistics.median(timed),
        "min_ms": 1e3 * min(timed),
        **solving,
        "peak_mb": peak,
        "reduction_percent": 100 * reduction,
        "repeats": len(timed),
    }


def solve_seconds(coupling: LinearAssignment, x: Tensor, noise: Tensor) -> float:
    """The part of a call that runs in a thread, once there is a step to hide it behind: the median of three."""
    share = Share(x, None, lambda first, last: [noise[first:last]])
    times = []
    for _ in range(3):
        pending = begin(share, Ranks(), [len(x)], coupling.method, 0)
        start = time.perf_counter()
        pending.order()
        times.append(time.perf_counter() - start)
        if times[-1] > BUDGET:
            break
    return statistics.median(times)


def row(question: str, name: str, count: int) -> Row:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", question, name, str(count)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return Row(question, name, count, note=f"given up after {LIMIT:.0f} s")
    if done.returncode:
        return Row(question, name, count, note=done.stderr.strip().splitlines()[-1][:100])
    found = json.loads(done.stdout)
    return Row(question, name, count, **{key: f"{value:.4g}" for key, value in found.items()})


def with_kept(rows: Iterable[Row]) -> Iterator[Row]:
    """Adds the share of the exact reduction that each method keeps on the same data."""
    rows = list(rows)
    exact = {
        (one.question == "latents", one.n): float(one.reduction_percent)
        for one in rows
        if one.method == "exact" and one.reduction_percent
    }
    for one in rows:
        best = exact.get((one.question == "latents", one.n))
        share = float(one.reduction_percent) / best if one.reduction_percent and best else None
        yield Row(**{**asdict(one), "kept": "" if share is None else f"{share:.4f}"})


def judged(question: str, method: str, count: int, value: float, sign: str, limit: float, repeats: int = 1) -> Row:
    met = value <= limit if sign == "<=" else value >= limit
    return Row(
        question,
        method,
        count,
        ratio=f"{value:.4g}",
        target=f"{sign} {limit:g}",
        met="yes" if met else "no",
        repeats=str(repeats),
    )


def targets(rows: list[Row]) -> Iterator[Row]:
    """The targets of the questions that there are rows for."""
    found = {(one.question, one.method, one.n): one for one in rows if one.ms}
    for question, data, sign in (("ladder", "images", ">="), ("latents", "latents", "<=")):
        if (question, "auto", 8192) in found:
            sample = inputs(8192, question)[0][:: 8192 // (2 * SAMPLE)].flatten(1)
            asked = f"share of the variance that {COMPONENTS} components hold"
            yield judged(asked, data, 8192, held_share(sample), sign, LEAST_HELD)
        if auto := found.get((question, "auto", 4096)):
            yield judged(f"share of the exact reduction kept on {data}", "auto", 4096, float(auto.kept), ">=", 0.85)
    if slabs := found.get(("ladder", "slabs", 8192)):
        yield from image_targets(slabs)


def image_targets(slabs: Row) -> Iterator[Row]:
    """The targets of a pool of 8192 images, and of blocks."""
    yield judged("share of the exact reduction kept", "slabs", 8192, float(slabs.kept), ">=", 0.9)
    with threads(THREADS):
        large, small = inputs(8192), inputs(1024)
        timing = side_by_side(
            lambda: LinearAssignment(solver="auto")(*large), lambda: LinearAssignment()(*small), 31, budget=60
        )
    question = "time, over that of an exact assignment of 1024"
    yield judged(question, "auto, which takes slabs", 8192, timing.ratio, "<=", 9, len(timing.ours))
    yield judged("most memory, in MB", "slabs", 8192, float(slabs.peak_mb), "<=", 1500)
    question = "growth of the time as a power of N, from 1024"
    yield judged(question, "blocks of 1024", 16384, growth(), "<=", 1.1, ROUNDS)


def growth() -> float:
    """The power of N by which the time of blocks grows, from medians of rounds in which all sizes take turns."""
    sizes = [count for count in SIZES if count >= 1024]
    given = {count: inputs(count) for count in sizes}
    coupling, times = OURS["blocks of 1024"], {count: [] for count in sizes}
    with threads(THREADS):
        for _ in range(ROUNDS + 1):
            for count, (x, noise) in given.items():
                start = time.perf_counter()
                coupling(x, noise)
                times[count].append(time.perf_counter() - start)
    # The first round warms up.
    points = [(math.log(count), math.log(statistics.median(taken[1:]))) for count, taken in times.items()]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


QUESTIONS = {"ladder": (OURS, SIZES), "latents": (OURS, LATENT), "others": (OTHERS, COMPARED)}


def measure(only: str | None = None) -> list[Row]:
    rows = []
    for question, (names, sizes) in QUESTIONS.items():
        for count in sizes if only in (None, question) else ():
            for name in names:
                if name == "blocks of 1024" and count < 1024:
                    continue
                rows.append(row(question, name, count))
                print(" ".join(filter(None, map(str, asdict(rows[-1]).values()))), flush=True)
    exact = [one for one in before() if one.method == "exact"] if only == "others" else []
    rows = [one for one in with_kept([*exact, *rows]) if only in (None, one.question)]
    for one in targets(rows):
        rows.append(one)
        print(f"{one.method}: {one.question}: {one.ratio} {one.target} {one.met}", flush=True)
    return rows


def before() -> list[Row]:
    """The rows that were measured before."""
    with CSV.open(newline="") as file:
        return [Row(**{**found, "n": int(found["n"])}) for found in csv.DictReader(file)]


def merged(rows: list[Row], only: str) -> list[Row]:
    """The rows that answer one question again, among those that were measured before."""
    again = {(one.question, one.method, one.n) for one in rows}
    kept = [one for one in before() if one.question != only and (one.question, one.method, one.n) not in again]
    order = [*QUESTIONS, ""]
    return sorted([*kept, *rows], key=lambda one: order.index(one.question if one.question in QUESTIONS else ""))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", action="store_true", help="write the pages from the CSV, and measure nothing")
    parser.add_argument("--only", choices=QUESTIONS, help="measure this, and keep the other rows of the CSV")
    parser.add_argument(
        "--one", nargs=3, metavar=("QUESTION", "METHOD", "N"), help="measure one method in this process"
    )
    options = parser.parse_args()
    if options.one:
        with threads(THREADS):
            print(json.dumps(measured(*options.one[:2], int(options.one[2]))))
        return 0
    if options.pages:
        with CSV.open(newline="") as file:
            write_pages(list(csv.DictReader(file)))
        return 0
    rows = measure(options.only)
    write_figures(CSV, [asdict(one) for one in (merged(rows, options.only) if options.only else rows)])
    return 1 if any(one.met == "no" for one in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
