"""What cells take to be fitted, once, and to draw from; on one thread, with 256 cells along 16 components.

The data are 60,000 draws with the spectrum of images, whose variance falls as one over the number of the component.
A missed target ends with status 1. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch
from _figures import write_figures
from _timing import machine, side_by_side, threads

from immiscible import Cells

CSV = Path(__file__).with_suffix(".csv")
COUNT, BATCH, REPEATS = 60_000, 256, 60
# Seconds of a fit, and the time of a draw in that of drawing independent noise.
FIT_SECONDS, DRAW_RATIO = 10.0, 3.0
# The size that the latter is about: of small data the noise is drawn in no time.
LARGE = 3072


def rows_of(values: int) -> list[dict[str, object]]:
    """The figures for data of that many values."""
    draws = torch.Generator().manual_seed(0)
    data = torch.randn(COUNT, values, generator=draws) * torch.arange(1, values + 1) ** -0.5
    start = time.perf_counter()
    cells = Cells(256, rank=16).fit(data)
    seconds = time.perf_counter() - start
    x = data[:BATCH].clone()
    took = side_by_side(lambda: cells(x, torch.randn_like(x)), lambda: torch.randn_like(x), REPEATS)
    assert cells.fitted is not None
    ratio, limit = round(took.ratio, 2), DRAW_RATIO if values == LARGE else ""
    shared = {"values": values, "chi2": round(cells.fitted.chi2, 3), "machine": machine()}
    return [
        {"what": "fit", "ms": round(1e3 * seconds), "in_randn": "", "target": f"{FIT_SECONDS} s"}
        | {"met": "yes" if seconds <= FIT_SECONDS else "no"}
        | shared,
        {"what": "draw", "ms": round(statistics.median(took.ours), 2), "in_randn": ratio, "target": limit}
        | {"met": ("yes" if ratio <= limit else "no") if limit else ""}
        | shared,
    ]


def main() -> int:
    with threads(1):
        rows = [one for values in (256, LARGE) for one in rows_of(values)]
    for one in rows:
        print("  ".join(map(str, one.values())))
    write_figures(CSV, rows)
    return 1 if any(one["met"] == "no" for one in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
