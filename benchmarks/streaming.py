"""Whether memory stays flat over a long stream: Fashion-MNIST as tar shards, drawn from as a training run does.

Writes 60,000 PNG files into shards of 1,000 in a temporary folder, streams ten epochs of them through the source of a
run, and samples the memory of the process as it goes. After a warm-up of one epoch, in which the shuffle windows,
the threads and the allocator reach their size, memory may grow by no more than a limit that is far below what any
part that were kept would add up to: the encoded images of one epoch take some 40 MiB, decoded ones 45 MiB. Growth is
between the medians of the first and the last quarter of the samples, since single samples catch a window more or less.

Writes streaming.csv, ends with status 1 if memory grew by more than the limit. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import torch
from _timing import machine
from PIL import Image

from immiscible.config.recipes import FlowConfig
from immiscible.data import Images, load
from immiscible.data.shards import Head
from immiscible.training.sources import PixelSource
from immiscible.training.streams import StreamSource, Walk

COUNT = 60_000
PER_SHARD = 1000
BATCH = 250
# Batches between samples of the memory, and between checkpoints.
EVERY = 40
# MiB that the memory may grow by after the warm-up.
LIMIT = 16.0


def write_shards(folder: Path) -> None:
    """Writes Fashion-MNIST as webdataset has it."""
    data = load("fashion-mnist")
    for first in range(0, len(data), PER_SHARD):
        with tarfile.open(folder / f"train-{first // PER_SHARD:03d}.tar", "w") as archive:
            for number in range(first, min(first + PER_SHARD, len(data))):
                buffer = io.BytesIO()
                Image.fromarray(data.pixels[number, 0].numpy()).save(buffer, "PNG")
                label = b"%d" % data.labels[number] if data.labels is not None else b"0"
                for kind, content in (("png", buffer.getvalue()), ("cls", label)):
                    entry = tarfile.TarInfo(f"{number:06d}.{kind}")
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))


def memory() -> float:
    """The resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def sample(source: StreamSource, total: int) -> list[dict[str, float]]:
    """Draws this many images, and samples the memory."""
    rows, start = [], time.perf_counter()
    for batch in range(total // BATCH):
        source.draw(torch.zeros(BATCH, dtype=torch.int64), (batch, 0, 0))
        if (batch + 1) % EVERY == 0:
            source.state_at(batch + 1)
            seconds, start = time.perf_counter() - start, time.perf_counter()
            row = {"rss_mib": round(memory(), 1), "images_per_s": round(EVERY * BATCH / seconds)}
            rows.append({"images": (batch + 1) * BATCH, **row})
    return rows


def growth(rows: list[dict[str, float]], warm_up: int) -> float:
    """By how many MiB the memory grew after a number of images."""
    values = [row["rss_mib"] for row in rows if row["images"] > warm_up]
    quarter = max(1, len(values) // 4)
    return statistics.median(values[-quarter:]) - statistics.median(values[:quarter])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10, help="epochs, the first of which warms up (default: 10)")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("streaming.csv"))
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own: what it frees would hide what the stream keeps.
        writer = multiprocessing.get_context("spawn").Process(target=write_shards, args=(Path(folder),))
        writer.start()
        writer.join()
        head = load(f"stream:{folder}/train-*.tar", class_count=10)
        assert isinstance(head, Head)
        config = FlowConfig(out=Path(folder), device="cpu", batch_size=BATCH)

        def wrap(images: Images) -> PixelSource:
            return PixelSource(images, config, torch.device("cpu"), conditional=True)

        source = StreamSource(head, Walk(head.stream, seed=0), 1, wrap)
        rows = sample(source, flags.epochs * COUNT)
    with flags.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "machine"])
        writer.writeheader()
        writer.writerows([row | {"machine": machine()} for row in rows])
    grown = growth(rows, COUNT)
    speed = statistics.median(row["images_per_s"] for row in rows)
    print(
        f"{flags.epochs * COUNT:,} images, {speed:,.0f} per second: {rows[0]['rss_mib']} MiB after the first "
        f"{rows[0]['images']:,}, {rows[-1]['rss_mib']} at the end; grown by {grown:.1f} MiB after the first epoch, at "
        f"most {LIMIT}"
    )
    return 1 if grown > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
