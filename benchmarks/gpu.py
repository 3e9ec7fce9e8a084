"""What couplings cost where a network trains on an accelerator, and whether a run there resumes exactly.

    python benchmarks/gpu.py                  measures on the accelerator, prints, and writes benchmarks/gpu.csv
    python benchmarks/gpu.py --device cpu     the same on a CPU, to try the script out

*Couplings*: the time of a call beside that of drawing the noise, for KNN at a batch of 1,024 images of CIFAR-10's size
(the second paper states 0.7 ms) and for assignments, solved exactly on the CPU and by auction on the device.
*Training*: what pairing adds to a step of ``train flow --preset cifar10``, by the loop's own stopwatch. *Resuming*:
whether a run that is stopped half-way ends in the same weights, in each precision. Every row names the device. Run it
on an idle one.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import Timing, machine
from torch import Tensor

from immiscible.couplings import parse_coupling

CSV = Path(__file__).with_suffix(".csv")
IMAGE = (3, 32, 32)
KNN_BATCH, ASSIGNED = 1024, (256, 1024, 4096)
COLUMNS = ("question", "case", "ours_ms", "reference_ms", "ratio", "answer", "device")
Row = dict[str, Any]


def synchronised(device: torch.device, function: Callable[[], object]) -> float:
    """Milliseconds of a call, with all that it queued on the device."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def timed(device: torch.device, ours: Callable[[], object], reference: Callable[[], object], repeats: int) -> Timing:
    """Times both in turn, after a call of each that is not counted."""
    ours(), reference()
    pairs = [(synchronised(device, ours), synchronised(device, reference)) for _ in range(repeats)]
    return Timing(*map(list, zip(*pairs, strict=True)))


def coupling_rows(device: torch.device, quick: bool) -> Iterator[Row]:
    """The time of each coupling with its draw, beside the draw."""
    sizes = ASSIGNED[:1] if quick else ASSIGNED
    knn = 64 if quick else KNN_BATCH
    cases = [("knn:8", knn), ("knn:64", knn)]
    cases += [(name, size) for size in sizes for name in ("assignment", "assignment:auction")]
    for name, size in cases:
        coupling, draws = parse_coupling(name), torch.Generator(device).manual_seed(0)
        x = torch.randn(size, *IMAGE, generator=draws, device=device)

        def draw(shape: torch.Size = x.shape, draws: torch.Generator = draws) -> Tensor:
            return torch.randn(shape, generator=draws, device=device)

        def ours(x: Tensor = x, coupling: Any = coupling, draws: torch.Generator = draws, draw: Any = draw) -> Tensor:
            return coupling(x, draw(), generator=draws)

        times = timed(device, ours, draw, 3 if quick else 31)
        yield row("time of a call with its draw, beside the draw", f"{name}, batch {size}", times=times, device=device)


def run_rows(device: torch.device, quick: bool) -> Iterator[Row]:
    """What pairing adds to a step, and whether runs resume exactly."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = np.random.default_rng(0).integers(0, 256, (64 if quick else 4096, 32, 32, 3), dtype=np.uint8)
        np.savez(folder / "images.npz", images=pixels)
        common = ["--data", str(folder / "images.npz"), "--device", device.type, "--no-tensorboard"]
        common += ["--width", "8", "--batch-size", "8"] if quick else []
        for coupling in ("assignment",) if quick else ("independent", "knn:8", "assignment"):
            out = folder / coupling.replace(":", "-")
            found = trained(out, 2 if quick else 200, [*common, "--coupling", coupling])
            answer = f"pairing {found['pairing_ms']:.3f} ms of {found['step_ms']:.1f} ms"
            yield row("what pairing adds to a step of train flow", coupling, answer=answer, device=device)
        # There is no float16 training on the CPU.
        for precision in ("bf16",) if device.type == "cpu" else ("no", "bf16", "fp16"):
            same = resumes(folder / precision, 2 if quick else 20, [*common, "--mixed-precision", precision])
            yield row("does a stopped run end in the same weights", precision, answer=str(same), device=device)


def resumes(folder: Path, steps: int, settings: list[str]) -> bool:
    """Whether a run with a stop half-way ends in the weights of one without."""
    trained(folder / "whole", steps, settings)
    for part in (steps // 2, steps):
        trained(folder / "stopped", part, settings)
    ends = (folder / run / "checkpoints" / f"step-{steps}" / "model.safetensors" for run in ("whole", "stopped"))
    return len({path.read_bytes() for path in ends}) == 1


def trained(out: Path, steps: int, settings: list[str]) -> dict[str, Any]:
    """Trains in a process of its own; returns the summary of the run."""
    command = [sys.executable, "-m", "immiscible.cli", "train", "flow", "--preset", "cifar10", "--extend", *settings]
    subprocess.run([*command, "--steps", str(steps), "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))


def row(question: str, case: str, *, device: torch.device, times: Timing | None = None, answer: str = "") -> Row:
    """A row of the figures."""
    where = machine() if device.type == "cpu" else f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    found: Row = {"question": question, "case": case, "answer": answer, "device": where}
    if times is not None:
        ours, reference = (sorted(part)[len(part) // 2] for part in (times.ours, times.reference))
        found |= {"ours_ms": f"{ours:.4g}", "reference_ms": f"{reference:.4g}", "ratio": f"{times.ratio:.4g}"}
    return found


def main() -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="where to measure (default: the accelerator)")
    parser.add_argument("--quick", action="store_true", help="a few calls of each, to try the script out")
    parser.add_argument("--out", type=Path, default=CSV, help="the CSV (default: beside this script)")
    flags = parser.parse_args()
    if flags.device is None and not torch.accelerator.is_available():
        print(
            "error: --device must be given where there is no accelerator, got none: use --device cpu.", file=sys.stderr
        )
        return 2
    device = torch.device(flags.device or torch.accelerator.current_accelerator().type)
    rows = []
    for found in (*coupling_rows(device, flags.quick), *run_rows(device, flags.quick)):
        print(f"{found['question']}: {found['case']}: {found.get('ratio', found['answer'])}", flush=True)
        rows.append(found)
    with flags.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
