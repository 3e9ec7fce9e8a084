from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """accelerate keeps its settings for the life of a process; each test leaves a clean one behind."""
    yield
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)


class Torchrun:
    """Starts the program in two processes, with gloo on the CPU. What is left running at the end is ended."""

    # Without the two dashes Python 3.11's argparse takes --num for one of torchrun's own flags.
    program = ("-m", "--", "immiscible.cli")

    def __init__(self, cache: Path) -> None:
        # Sums depend on the number of threads, which torchrun would set to one.
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "IMMISCIBLE_CACHE": str(cache)}
        self.started: list[subprocess.Popen[str]] = []

    def start(
        self, words: list[str], *options: str, program: tuple[str, ...] = program, **environment: str
    ) -> subprocess.Popen[str]:
        """Starts it, in a session of its own; options are torchrun's."""
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        process = subprocess.Popen(
            [*launcher, *options, *program, *words],
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def __call__(
        self, words: list[str], *options: str, program: tuple[str, ...] = program, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs it to its end, which must come within a time that only what hangs would need."""
        process = self.start(words, *options, program=program, **environment)
        out, said = process.communicate(timeout=240)
        return subprocess.CompletedProcess(process.args, process.returncode, out, said)

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                # The launcher then ends its workers.
                process.terminate()
                process.communicate(timeout=60)


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[Torchrun]:
    """Runs the program in two processes."""
    runner = Torchrun(tmp_path / "cache")
    yield runner
    runner.end()


@pytest.fixture(scope="session")
def shards() -> SimpleNamespace:
    """Writes streams: tar archives as webdataset has them, and datasets of parquet files."""
    return SimpleNamespace(
        png=png, write_shard=write_shard, example=example, write_shards=write_shards, parquet=parquet
    )


def png(number: int, mode: str = "L", side: int = 4) -> bytes:
    """An image whose pixels say its number, up to 64 k."""
    pixels = np.full((side, side, 3), number % 256, np.uint8)
    pixels[:, 0] = number // 256
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, examples: dict[str, dict[str, bytes]]) -> Path:
    """An archive with a file for each part of each example."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, parts in examples.items():
            for kind, content in parts.items():
                entry = tarfile.TarInfo(f"{key}.{kind}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def example(number: int) -> dict[str, bytes]:
    """An image with a label and two captions."""
    told = b'{"title": "title %d"}' % number
    return {"png": png(number), "cls": b"%d" % (number % 5), "txt": b"number %d" % number, "json": told}


def write_shards(folder: Path, *sizes: int) -> str:
    """Archives of consecutive numbers, and the spelling of their stream."""
    first = 0
    for index, size in enumerate(sizes):
        numbers = range(first, first + size)
        write_shard(folder / f"train-{index:03d}.tar", {f"{number:06d}": example(number) for number in numbers})
        first += size
    return f"stream:{folder}/train-*.tar"


def parquet(folder: Path, *counts: int, feature: Any = None) -> str:
    """A dataset of parquet files, numbered through."""
    import datasets

    folder.mkdir()
    first = 0
    features = datasets.Features({"image": datasets.Image(), "label": feature or datasets.Value("int64")})
    for index, count in enumerate(counts):
        rows = range(first, first + count)
        images = [{"bytes": png(row), "path": None} for row in rows]
        table = datasets.Dataset.from_dict({"image": images, "label": [row % 3 for row in rows]}, features=features)
        table.to_parquet(str(folder / f"train-{index:05d}-of-{len(counts):05d}.parquet"), batch_size=3)
        first += count
    return f"stream:hf:{folder}"


# Chromium without what it would do on its own.
BROWSER = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def unavailable() -> Callable[[str], NoReturn]:
    """A machine without a browser may leave its tests out, continuous integration may not."""

    def leave_out(reason: str) -> NoReturn:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}, and continuous integration must run the browser tests")
        pytest.skip(reason)

    return leave_out


@pytest.fixture(scope="module")
def browser(unavailable: Callable[[str], NoReturn]) -> Iterator[Any]:
    """A real browser, in which pages are opened as a reader opens them."""
    executable = shutil.which("chromium")
    if executable is None:
        unavailable("chromium is not installed")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("the package playwright is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=BROWSER)
        yield browser
        browser.close()
