"""What pools cost over many GPUs, on paper: bytes and seconds from measured solvers and stated rates.

    python benchmarks/scaling.py      prints the tables that docs/scaling.md shows, and writes them there

Reads benchmarks/solvers.csv and measures nothing. Times of solvers beyond the sizes there follow the power of N of the
last two sizes.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from immiscible.couplings.solvers.leading import SAMPLE
from immiscible.couplings.solvers.slabs import COMPONENTS
from immiscible.io.files import write_text

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
CSV = Path(__file__).with_name("solvers.csv")
# Taken, not measured: what one GPU of a cluster does. Bytes per second over its link, float32 multiplications and
# additions per second, normal numbers per second.
LINK, PRODUCTS, NORMALS = 25e9, 15e12, 1e10
# Latents of images of 512 x 512 pixels.
DIMS = 4 * 64 * 64
CASES = ((8, 512), (8, 2048), (64, 4096), (64, 16384), (1024, 65536))
SECONDS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Solver:
    """How long a solver takes, from its measured times.

    Arguments:
        rows: The rows of the CSV of one method.
    """

    def __init__(self, rows: Sequence[dict[str, str]]) -> None:
        self.points = sorted((math.log(int(row["n"])), math.log(float(row["solve_ms"]) / 1e3)) for row in rows)

    def seconds(self, count: int) -> float:
        """The time for a pool of some size, interpolated as a power."""
        at = math.log(count)
        pairs = list(zip(self.points, self.points[1:], strict=False))
        (x0, y0), (x1, y1) = next((pair for pair in pairs if at <= pair[1][0]), pairs[-1])
        return math.exp(y0 + (y1 - y0) * (at - x0) / (x1 - x0))

    def largest(self, seconds: float) -> str:
        """The largest pool that is solved within some seconds, of those that were measured."""
        fits = [count for count in range(128, 16385, 64) if self.seconds(count) <= seconds]
        if not fits:
            return "less than 128"
        return f"{fits[-1]:,}" if fits[-1] < 16384 else "16,384 and more"


@dataclass(frozen=True)
class Scheme:
    """What a step costs with a global batch of ``count`` over ``ranks`` GPUs.

    Attributes:
        into_first: Bytes into the first rank.
        per_rank: Bytes into each other rank.
        seconds: Seconds of a step that cannot be hidden: wires, products, normal numbers.
        solving: Seconds of the solver on the first rank, which can.
    """

    into_first: float
    per_rank: float
    seconds: float
    solving: float


def ours_exact(ranks: int, count: int, solver: Solver) -> Scheme:
    """Rows of the cost to the first rank, indices back; the pool's noise drawn on every rank, twice."""
    rows, indices = 4 * count**2 * (ranks - 1) / ranks, 4 * count
    work = 2 * count**2 / ranks * DIMS / PRODUCTS + 2 * count * DIMS / NORMALS
    return Scheme(rows, indices, (rows + indices) / LINK + work, solver.seconds(count))


def ours_slabs(ranks: int, count: int, solver: Solver) -> Scheme:
    """Coordinates to the first rank, a sample and the components to all, indices back; own noise, then the pool's."""
    shared = 4 * (SAMPLE + COMPONENTS) * DIMS + 4 * count
    coordinates = 4 * 2 * COMPONENTS * count * (ranks - 1) / ranks
    work = 4 * count / ranks * DIMS * COMPONENTS / PRODUCTS + count * (1 + 1 / ranks) * DIMS / NORMALS
    return Scheme(coordinates + shared, shared, (coordinates + shared) / LINK + work, solver.seconds(count))


def published(ranks: int, count: int, solver: Solver) -> Scheme:
    """Noise to all, rows of distances to the first rank, which sends each rank its noise."""
    share = (ranks - 1) / ranks
    noise, rows = 4 * count * DIMS * share, 4 * count**2 * share
    # What the first rank sends leaves by its own link.
    seconds = (noise + rows + noise) / LINK + 2 * count**2 / ranks * DIMS / PRODUCTS
    return Scheme(noise + rows, noise + 4 * count / ranks * DIMS, seconds, solver.seconds(count))


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *lines))


def size(count: float) -> str:
    """Bytes in words."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f} B"


def on_paper(solvers: dict[str, Solver]) -> str:
    lines = []
    for ranks, count in CASES:
        for name, scheme in (
            ("exact", ours_exact(ranks, count, solvers["exact"])),
            ("slabs", ours_slabs(ranks, count, solvers["slabs"])),
            ("published", published(ranks, count, solvers["exact"])),
        ):
            lines.append(
                [
                    str(ranks),
                    f"{count:,}",
                    name,
                    size(scheme.into_first),
                    size(scheme.per_rank),
                    f"{scheme.seconds:.2g}",
                    f"{scheme.solving:.2g}{' *' if count > 16384 else ''}",
                ]
            )
    heads = ("GPUs", "global batch", "scheme", "into the first", "into each other", "seconds", "solving")
    return table(heads, lines)


def hidden(solvers: dict[str, Solver]) -> str:
    lines = [[name, *(solver.largest(seconds) for seconds in SECONDS)] for name, solver in solvers.items()]
    return table(("solver", *(f"{seconds:g} s" for seconds in SECONDS)), lines)


def measured_solvers() -> dict[str, Solver]:
    """The solvers of the CSV by their names."""
    with CSV.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["question"] == "ladder" and row["solve_ms"]]
    # Which solver `auto` takes depends on the size.
    names = dict.fromkeys(row["method"] for row in rows if row["method"] != "auto")
    return {name: Solver([row for row in rows if row["method"] == name]) for name in names}


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    solvers = measured_solvers()
    text = PAGE.read_text(encoding="utf-8")
    for mark, block in (("hidden", hidden(solvers)), ("paper", on_paper(solvers))):
        print(block, end="\n\n")
        begin, end = f"<!-- {mark}: written by benchmarks/scaling.py -->", f"<!-- /{mark} -->"
        text = re.sub(f"{begin}.*{end}", lambda _, b=begin, t=block, e=end: f"{b}\n\n{t}\n\n{e}", text, flags=re.DOTALL)
    write_text(PAGE, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
