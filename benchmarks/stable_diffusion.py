"""What pairing adds to a step of Stable Diffusion: time of the tiny U-Net's step, and memory, against candidate search.

A pipeline of `immiscible make-tiny-sd` for images of 32 x 32 pixels (latents of 4 x 8 x 8), its VAE hardly trained,
since what latents show does not change how long a step takes. Latents are cached, so a step is text encoder, U-Net,
backward pass, optimiser and moving average. Couplings take their steps in turn.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from _timing import machine, peak_bytes, side_by_side
from accelerate import Accelerator
from couplings import candidate_search
from torch import Tensor

from immiscible.config.recipes import StableDiffusionConfig, TinyPipeline
from immiscible.couplings import coupling
from immiscible.couplings.spaces import InSpace
from immiscible.data import Images, load
from immiscible.runs.cost_space import fit_cost_space
from immiscible.tasks.registry import make_task
from immiscible.tasks.stable_diffusion.tiny import make_tiny
from immiscible.training.loop import Loop

COUPLINGS = ("independent", "knn:8", "knn:64", "assignment")
K = 64


def make_loop(name: str, batch: int, folder: Path, data: Images) -> Loop:
    """The package's loop, ready for its next step."""
    config = StableDiffusionConfig(
        model=str(folder / "tiny"),
        mode="scratch",
        data="digits",
        out=folder / name,
        coupling=name,
        batch_size=batch,
        cache_latents=True,
        device="cpu",
    )
    task = make_task(config, data)
    source = task.source(data, torch.device("cpu"))
    pairing = InSpace(coupling(name), fit_cost_space(config, source.points()))
    return Loop(config, task, source, pairing, Accelerator(cpu=True))


def row(name: str, loop: Loop, steps: list[float], x: Tensor) -> dict[str, object]:
    """The figures of a coupling."""
    step, pairing = statistics.median(steps), loop.feed.watch.ms_per(loop.progress.watch)
    noise = torch.randn_like(x)
    memory = peak_bytes(lambda: loop.feed.pairing.coupling(x, noise)) / x.nbytes
    return {
        "coupling": name,
        "batch": len(x),
        "latents": "x".join(map(str, x.shape[1:])),
        "parameters": sum(weight.numel() for weight in loop.task.network.parameters()),
        "step_ms": round(step, 2),
        "pairing_ms": round(pairing, 4),
        "pairing_percent": round(100 * pairing / (step - pairing), 3),
        "memory_in_latents": round(memory, 2),
        "rounds": len(steps),
        "machine": machine(),
    }


def search_row(x: Tensor, rounds: int) -> dict[str, object]:
    """The published search for the same latents: its time beside ours, and its memory."""
    ours = coupling(f"knn:{K}")
    timing = side_by_side(lambda: ours(x, torch.randn_like(x)), lambda: candidate_search(x, K), rounds)
    return {
        "coupling": f"candidate search, k = {K}",
        "batch": len(x),
        "latents": "x".join(map(str, x.shape[1:])),
        "pairing_ms": round(statistics.median(timing.reference), 4),
        "memory_in_latents": round(peak_bytes(lambda: candidate_search(x, K)) / x.nbytes, 2),
        "rounds": len(timing.ours),
        "machine": machine(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="measured steps of each coupling (default: 60)")
    parser.add_argument("--batch", type=int, default=32, help="images per step (default: 32)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("stable_diffusion.csv"))
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["IMMISCIBLE_CACHE"] = str(folder / "cache")
        make_tiny(TinyPipeline(out=folder / "tiny", data="digits", image_size=32, steps=5))
        data = load("digits", image_size=32).in_colour()
        loops = {name: make_loop(name, flags.batch, folder, data) for name in COUPLINGS}
        steps: dict[str, list[float]] = {name: [] for name in COUPLINGS}
        for turn in range(flags.rounds + 5):
            for name, loop in loops.items():
                if turn == 5:
                    loop.progress.watch.seconds = loop.feed.watch.seconds = 0.0
                    loop.progress.watch.timed = loop.feed.watch.timed = 0
                before = loop.progress.watch.seconds
                with loop.progress.watch:
                    loop._train_step()
                steps[name] += [1000 * (loop.progress.watch.seconds - before)] if turn >= 5 else []
        x = loops["independent"].source.draw(torch.arange(flags.batch), (0, 0, 0)).x
    rows = [row(name, loop, steps[name], x) for name, loop in loops.items()] + [search_row(x, flags.rounds)]
    with flags.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for one in rows:
        print(one)
    return 0


if __name__ == "__main__":
    sys.exit(main())
