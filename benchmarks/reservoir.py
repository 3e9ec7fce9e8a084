"""What noises that wait bring at a batch of one, and what they cost.

*Reductions*: by how many per cent the mean distance between data and noise falls, with images of unit variance one by
one, against the assignment of batches and KNN. Where that of ``reservoir:256`` is below the assignment's of 128 it ends
with status 1. *Times*: of a call on one thread, with new data and noise each time, in turn with the assignment of as
many data or with independent noise, beside what was aimed at. Run it on an otherwise idle machine; other images of
32x32 are measured too where they are given:

    python benchmarks/reservoir.py --data cifar10 --name CIFAR-10
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from _figures import write_figures
from _timing import machine, side_by_side, threads

from immiscible import Independent, LinearAssignment, Reservoir
from immiscible.analysis.reduction import Table, reductions
from immiscible.config.groups import ReadOptions
from immiscible.data.measured import read_measured

CSV = Path(__file__).with_suffix(".csv")
PAIRS = 8192
SINGLY = ("reservoir:64", "reservoir:256", "reservoir:1024", "knn:4", "knn:64")
# The time of a datum at a batch of one, in milliseconds, and of a batch of 128 in that of its assignment.
SINGLE_MS, BATCH_RATIO = 0.1, 1.5
Row = dict[str, object]


def row(**values: object) -> Row:
    """A row of the figures, with all columns."""
    columns = ("what", "data", "values", "batch", "coupling", "figure", "unit", "other", "target", "met")
    return {column: values.get(column, "") for column in columns} | {"machine": machine()}


def reduced(spec: str, name: str, size: int | None) -> list[Row]:
    """The reductions on some data: each coupling of single data, and assignments of batches."""
    data = read_measured(spec, ReadOptions(image_size=size)).x
    single = reductions(data, SINGLY, Table([1], ["unit"], PAIRS))
    batches = reductions(data, ["assignment"], Table([128, 512, 2048], ["unit"], PAIRS))
    least = next(one.percent for one in batches if one.batch_size == 128)
    return [
        row(
            what="reduction",
            data=name,
            values=data[0].numel(),
            batch=one.batch_size,
            coupling=one.coupling,
            figure=round(one.percent, 2),
            unit="%",
            other=round(one.error, 2),
            target=round(least, 2) if one.coupling == "reservoir:256" else "",
            met=("yes" if one.percent >= least else "no") if one.coupling == "reservoir:256" else "",
        )
        for one in (*single, *batches)
    ]


def pairs(batch: int, values: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """New data and noise without end."""
    draws = torch.Generator().manual_seed(0)
    while True:
        yield torch.randn(batch, values, generator=draws), torch.randn(batch, values, generator=draws)


def timed(batch: int, values: int, size: int) -> Row:
    """The time of a reservoir that has been called for a while."""
    reservoir, given, repeats = Reservoir(size), pairs(batch, values), 4000 // batch + 100
    for _ in range(4):
        reservoir(*next(given))
    # Drawn beforehand, as they are by a loop.
    drawn = [next(given) for _ in range(repeats + 8)]
    ours, theirs = iter(drawn), iter(drawn)
    other = Independent() if batch == 1 else LinearAssignment()
    took = side_by_side(lambda: reservoir(*next(ours)), lambda: other(*next(theirs)), repeats)
    figure = statistics.median(took.ours)
    judged = (values, size) in ((3072, 256),) if batch == 1 else size == 512
    met = figure <= SINGLE_MS if batch == 1 else took.ratio <= BATCH_RATIO
    return row(
        what="time",
        values=values,
        batch=batch,
        coupling=str(reservoir),
        figure=round(figure, 4),
        unit="ms",
        other=f"{statistics.median(took.reference):.4f} {other}",
        target=(SINGLE_MS if batch == 1 else f"{BATCH_RATIO} x") if judged else "",
        met=("yes" if met else "no") if judged else "",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="other images, spelled as for `immiscible train`")
    parser.add_argument("--name", help="what to call them")
    given = parser.parse_args()
    with threads(1):
        rows = reduced("fashion-mnist", "Fashion-MNIST 16x16", 16)
        if given.data:
            rows += reduced(given.data, given.name or given.data, None)
        elif CSV.exists():
            with CSV.open(newline="") as file:
                rows += [one for one in csv.DictReader(file) if one["data"] not in ("", rows[0]["data"])]
        rows += [timed(1, values, size) for values in (256, 3072) for size in (64, 256, 1024)]
        rows += [timed(128, values, size) for values in (64, 256, 3072) for size in (512, 2048)]
    for one in rows:
        print("  ".join(map(str, one.values())))
    write_figures(CSV, rows)
    return 1 if any(one["met"] == "no" for one in rows if one["what"] == "reduction") else 0


if __name__ == "__main__":
    sys.exit(main())
