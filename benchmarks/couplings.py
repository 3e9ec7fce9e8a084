"""What coupling costs, each question against the right yardstick, both measured side by side in one run.

    python benchmarks/couplings.py                      measures, prints, and writes benchmarks/couplings.csv
    python benchmarks/couplings.py --table FILE.md      writes the table of that CSV in Markdown, measuring nothing

The ratio is ours over the reference: the median over neighbouring calls where it is one of times. The noise is drawn
inside both. Ends with status 1 if a target is missed. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from _couplings_table import markdown
from _figures import write_figures
from _images import images
from _timing import THREADS, machine, peak_bytes, side_by_side, threads
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from immiscible import KNN, LinearAssignment
from immiscible.couplings.solvers import dense as solvers
from immiscible.io.files import write_text

CSV = Path(__file__).with_name("couplings.csv")
SEARCH = "candidate search, broadcast, ranked in float16 as published"
PRODUCT = "drawing and the bare float32 product"
SCIPY = "broadcast distance in float16 and SciPy, as published"
TORCHCFM = "torchcfm's OTPlanSampler('exact')"


@dataclass(frozen=True)
class Row:
    """One line of the CSV. Times are in milliseconds; what was not measured or has no target is empty."""

    question: str
    setting: str
    ours_ms: str
    ours_min_ms: str
    reference: str
    reference_ms: str
    reference_min_ms: str
    ratio: str
    target: str
    met: str
    repeats: str
    machine: str


def row(question: str, setting: str, reference: str, ratio: float, target: str = "", **measured: str) -> Row:
    """A row of the CSV, judged by a target such as ``<= 1.45``, ``>= 0.9`` or ``<= 1/60``."""
    names = ("ours_ms", "ours_min_ms", "reference_ms", "reference_min_ms", "repeats")
    given = {name: measured.get(name, "") for name in names}
    return Row(question, setting, reference=reference, ratio=f"{ratio:.4g}", target=target, met=met(ratio, target),
               machine=machine(), **given)  # fmt: skip


def met(ratio: float, target: str) -> str:
    if not target:
        return ""
    sign, _, number = target.partition(" ")
    above, _, below = number.partition("/")
    limit = float(above) / float(below or 1)
    return "yes" if (ratio <= limit if sign == "<=" else ratio >= limit) else "no"


def timed(
    question: str,
    setting: str,
    ours: Callable[[], object],
    reference: str,
    theirs: Callable[[], object],
    target: str,
    repeats: int,
) -> Row:
    timing = side_by_side(ours, theirs, repeats)
    return row(
        question,
        setting,
        reference,
        timing.ratio,
        target,
        ours_ms=f"{statistics.median(timing.ours):.4g}",
        ours_min_ms=f"{min(timing.ours):.4g}",
        reference_ms=f"{statistics.median(timing.reference):.4g}",
        reference_min_ms=f"{min(timing.reference):.4g}",
        repeats=str(len(timing.ours)),
    )


def dims(shape: Iterable[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def knn_against_drawing(repeats: int) -> Iterator[Row]:
    for shape, k, target in (
        ((256, 3, 32, 32), 8, "<= 1.45"),
        ((128, 4, 32, 32), 64, "<= 1.7"),
        ((1024, 1, 16, 16), 64, "<= 1.8"),
    ):
        x, coupling = torch.randn(shape) / 2, KNN(k)
        yield timed(
            "KNN, time",
            f"{dims(shape)}, k = {k}",
            lambda x=x, coupling=coupling: coupling(x, torch.randn_like(x)),
            "torch.randn_like(x)",
            lambda x=x: torch.randn_like(x),
            target,
            repeats,
        )


def candidate_search(x: Tensor, k: int) -> Tensor:
    """The published rule (arXiv 2505.18521): draws all candidates, ranks them in float16, keeps the nearest."""
    candidates = torch.randn(len(x), k, *x.shape[1:])
    difference = x.half().flatten(1)[:, None] - candidates.half().flatten(2)
    nearest = torch.linalg.vector_norm(difference, dim=2).argmin(1)
    return candidates[torch.arange(len(x)), nearest]


def knn_against_search(repeats: int) -> Iterator[Row]:
    for shape in ((128, 4, 32, 32), (1024, 1, 16, 16)):
        x = torch.randn(shape) / 2
        yield timed(
            "KNN against the search, time",
            f"{dims(shape)}, k = 64",
            lambda x=x: KNN(64)(x, torch.randn_like(x)),
            SEARCH,
            lambda x=x: candidate_search(x, 64),
            "<= 1/60",
            repeats,
        )


def knn_memory(repeats: int) -> Iterator[Row]:
    for shape in ((256, 3, 32, 32), (128, 4, 32, 32), (1024, 1, 16, 16)):
        x, noise = torch.randn(2, *shape)
        for k in (8, 64, 1000):
            peak = peak_bytes(lambda x=x, noise=noise, k=k: KNN(k)(x, noise))
            ratio = peak / (x.numel() * x.element_size())
            yield row("KNN, peak extra memory", f"{dims(shape)}, k = {k}", "one tensor of the size of x", ratio, "<= 3")


def assign(x: Tensor, block: int | None = None) -> Tensor:
    return LinearAssignment(block)(x, torch.randn_like(x))


def bare_product(x: Tensor) -> Tensor:
    return x.flatten(1) @ torch.randn_like(x).flatten(1).T


def assignment_against_product(repeats: int) -> Iterator[Row]:
    for count, target in ((256, "<= 1.6"), (1024, "<= 1.9")):
        x, name = images(count)
        ours, theirs = (lambda x=x: assign(x)), (lambda x=x: bare_product(x))
        yield timed("Assignment, time", f"N = {count}, D = 3072, {name}", ours, PRODUCT, theirs, target, repeats)


def broadcast_and_scipy(x: Tensor, rows: int) -> Tensor:
    """The published rule (arXiv 2406.12303): the distances in float16 by a [B, B, D] broadcast, then SciPy."""
    noise = torch.randn_like(x)
    points, others = x.flatten(1).half(), noise.flatten(1).half()
    distance = [torch.linalg.vector_norm(some[:, None] - others, dim=2) for some in points.split(rows)]
    return noise[linear_sum_assignment(torch.cat(distance).numpy())[1]]


def free_gigabytes() -> float:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) / 2**20


def assignment_against_published(repeats: int) -> Iterator[Row]:
    x, name = images(1024)
    # The broadcast takes 6.4 GB; where that does not fit it is made in pieces.
    rows = 1024 if Path("/proc/meminfo").exists() and free_gigabytes() > 10 else 128
    reference = SCIPY if rows == 1024 else f"{SCIPY}, {rows} rows at a time"
    ours, theirs = (lambda: assign(x)), (lambda: broadcast_and_scipy(x, rows))
    setting = f"N = 1024, D = 3072, {name}"
    yield timed("Assignment against others, time", setting, ours, reference, theirs, "<= 1/25", repeats)


def assignment_against_torchcfm(repeats: int) -> Iterator[Row]:
    question = "Assignment against others, time"
    x, name = images(1024)
    setting = f"N = 1024, D = 3072, {name}"
    try:
        from torchcfm.optimal_transport import OTPlanSampler
    except ImportError as error:
        yield Row(question, setting, "", "", f"{TORCHCFM}: skipped, {error}", "", "", "", "<= 0.4", "", "", machine())
        return
    sampler = OTPlanSampler(method="exact")
    ours, theirs = (lambda: assign(x)), (lambda: sampler.sample_plan(torch.randn_like(x), x))
    yield timed(question, setting, ours, TORCHCFM, theirs, "<= 0.4", repeats)


def distance(x: Tensor, noise: Tensor) -> float:
    return (x - noise).flatten(1).norm(dim=1).mean().item()


def blocks(repeats: int) -> Iterator[Row]:
    x, name = images(4096)
    shares = []
    for _ in range(min(3, repeats)):
        noise = torch.randn_like(x)
        none, block, exact = (distance(x, n) for n in (
            noise, LinearAssignment(block=1024)(x, noise), LinearAssignment()(x, noise)
        ))  # fmt: skip
        shares.append((none - block) / (none - exact))
    setting = f"N = 4096, D = 3072, block = 1024, {name}"
    share = statistics.mean(shares)
    reference = "reduction of the mean distance by the exact assignment"
    yield row("Blocks, share of the reduction", setting, reference, share, ">= 0.9", repeats=str(len(shares)))
    small = x[:1024].contiguous()
    ours, theirs = (lambda: assign(x, 1024)), (lambda: assign(small))
    yield timed("Blocks, time", setting, ours, "exact assignment at N = 1024", theirs, "<= 5", repeats)


@contextmanager
def warm_from(count: int) -> Iterator[None]:
    """Starts the solver warm from this size on."""
    before = solvers.WARM_FROM
    solvers.WARM_FROM = count
    try:
        yield
    finally:
        solvers.WARM_FROM = before


def cold(x: Tensor) -> Tensor:
    with warm_from(sys.maxsize):
        return assign(x)


def warm_start(repeats: int) -> Iterator[Row]:
    for count in (256, 512, 1024, 2048, 4096):
        x, name = images(count)
        ours, theirs = (lambda x=x: assign(x)), (lambda x=x: cold(x))
        setting = f"N = {count}, D = 3072, {name}"
        yield timed("Warm start of the solver, time", setting, ours, "without it", theirs, "", repeats)


QUESTIONS = (
    knn_against_drawing,
    knn_against_search,
    knn_memory,
    assignment_against_product,
    assignment_against_torchcfm,
    assignment_against_published,
    blocks,
    warm_start,
)


def measure(repeats: int) -> list[Row]:
    rows = []
    with threads(THREADS), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for question in QUESTIONS:
            for one in question(repeats):
                rows.append(one)
                print(f"{one.question}: {one.setting}: {one.ratio or 'skipped'} {one.target} {one.met}", flush=True)
    return rows


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    write_figures(path, [asdict(one) for one in rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CSV, help="the CSV (default: beside this script)")
    parser.add_argument("--repeats", type=int, default=101, help="pairs of calls at most (default: 101)")
    parser.add_argument("--table", type=Path, help="write the table of the CSV here, in Markdown, and measure nothing")
    options = parser.parse_args()
    if options.table:
        with options.out.open(newline="") as file:
            write_text(options.table, markdown(list(csv.DictReader(file))))
        return 0
    rows = measure(options.repeats)
    write_csv(options.out, rows)
    return 1 if any(one.met == "no" for one in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
