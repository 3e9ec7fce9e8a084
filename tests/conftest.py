from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


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
