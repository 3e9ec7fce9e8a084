"""What pools add to a step of `immiscible train flow` on the CPU, the solver on the cores that train.

The loop of the package trains the presets of the recipes at batch 128, once for each way to pair.
The ways take turns in one process, sixteen steps a turn, which are one pool of 2048; a pool that is started in a turn
is solved within it. The first two turns of each are left out. Ends with status 1 if a target is missed. Run it on an
otherwise idle machine.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from _figures import write_figures
from _timing import machine, threads
from accelerate import Accelerator

from immiscible.config.recipes import FlowConfig
from immiscible.config.systems import preset
from immiscible.couplings import coupling
from immiscible.couplings.spaces import InSpace
from immiscible.data import Images
from immiscible.io.files import write_text
from immiscible.runs.cost_space import fit_cost_space
from immiscible.runs.resolve import resolve
from immiscible.tasks.registry import load_data, make_task
from immiscible.training.loop import Loop

CSV = Path(__file__).with_suffix(".csv")
PAGE = Path(__file__).parents[1] / "docs" / "results" / "pools.md"
HEADING = """# What pools add to a step

Measured by `python benchmarks/pools.py` on {machine}: the loop of
`immiscible train flow` at batch 128, with the presets `fashion-mnist` (16x16, U-Net) and `digits` (8x8, MLP). The ways
to pair took turns of sixteen steps in one process, and *added* is the median over the rounds of the time of a turn over
that of independent noise. *Pairing* is what the training thread spends on it: drawing noise again, products, and
waiting. The solver itself shares the two cores with the training, and counts in *added* only.

{table}
"""
BATCH, POOL, THREADS = 128, 2048, 2
TURN = POOL // BATCH
WARM = 2
# Rounds of turns for each preset, and the most that a pool in the background may add to a step.
PRESETS_TIMED = {"fashion-mnist": (12, 0.05), "digits": (40, None)}
WAYS = {
    "independent": {"coupling": "independent"},
    "assignment, each batch": {"coupling": "assignment"},
    "pool of 2048, in the background": {"coupling": "assignment", "pool": POOL},
    "pool of 2048, before its first step": {"coupling": "assignment", "pool": POOL, "background": False},
}


def make_loop(name: str, data: Images, folder: Path, settings: dict[str, object]) -> Loop:
    """The package's loop, ready for its first step."""
    values = {**preset("flow", name), "batch_size": BATCH, "steps": 100_000, "device": "cpu", **settings}
    config = resolve(FlowConfig(out=folder, **values), data)  # pyright: ignore[reportArgumentType]
    task = make_task(config, data)
    source = task.source(data, torch.device("cpu"))
    pairing = InSpace(coupling(config.coupling), fit_cost_space(config, source.points()))
    return Loop(config, task, source, pairing, Accelerator(cpu=True))


def turn(loop: Loop) -> float:
    """Seconds of the steps of a whole pool."""
    start = time.perf_counter()
    for _ in range(TURN):
        with loop.progress.watch:
            loop._train_step()
    return time.perf_counter() - start


def rows_of(name: str, rounds: int, limit: float | None, folder: Path) -> list[dict[str, object]]:
    """The figures of a preset, a row for each way to pair."""
    data = load_data(FlowConfig(out=folder, **preset("flow", name)))
    loops = {way: make_loop(name, data, folder, settings) for way, settings in WAYS.items()}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(WARM + rounds):
        for way, loop in loops.items():
            took = turn(loop)
            if number >= WARM:
                seconds[way].append(took)
    return [row(name, way, loops[way], seconds, limit) for way in WAYS]


def row(name: str, way: str, loop: Loop, seconds: dict[str, list[float]], limit: float | None) -> dict[str, object]:
    """One line of the CSV. The share added is the median over rounds, in which all ways were timed."""
    added = statistics.median(a / b - 1 for a, b in zip(seconds[way], seconds["independent"], strict=True))
    target = limit if "background" in way else None
    return {
        "preset": name,
        "network": f"{loop.config.network} of {sum(weight.numel() for weight in loop.task.network.parameters()):,}",
        "pairing": way,
        "step_ms": round(1e3 * statistics.median(seconds[way]) / TURN, 3),
        "pairing_ms": round(loop.feed.watch.ms_per(loop.progress.watch), 3),
        "added_percent": round(100 * added, 2),
        "target_percent": "" if target is None else 100 * target,
        "met": "" if target is None else "yes" if added <= target else "no",
        "rounds": len(seconds[way]),
        "machine": machine(),
    }


def page(rows: list[dict[str, str]]) -> str:
    """The page of the documentation."""
    heads = ("preset", "network", "pairing", "ms per step", "pairing, ms", "added", "target", "met")
    keys = ("preset", "network", "pairing", "step_ms", "pairing_ms", "added_percent", "target_percent", "met")
    lines = [[row[key] + (" %" if "percent" in key and row[key] else "") for key in keys] for row in rows]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *lines))
    return HEADING.format(machine="; ".join(dict.fromkeys(row["machine"] for row in rows)), table=table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write docs/results/pools.md from the CSV, measure nothing")
    if parser.parse_args().page:
        with CSV.open(newline="") as file:
            write_text(PAGE, page(list(csv.DictReader(file))))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as folder, threads(THREADS):
        for name, (rounds, limit) in PRESETS_TIMED.items():
            for one in rows_of(name, rounds, limit, Path(folder)):
                rows.append(one)
                print("  ".join(map(str, one.values())), flush=True)
    write_figures(CSV, rows)
    return 1 if any(one["met"] == "no" for one in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
