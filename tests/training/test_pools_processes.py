"""Pools of two processes in training are those that one process would pair."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from immiscible.couplings.spaces import given
from immiscible.training.pairing import Pairing

pytestmark = pytest.mark.slow
CHILD = Path(__file__).with_name("pools_child.py")


def load_child() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pools_child", CHILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pools_child"] = module
    spec.loader.exec_module(module)
    return module


child = load_child()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("pools")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(CHILD), str(out)], env=environment, capture_output=True, text=True, timeout=240
    )
    files = [out / f"rank-{rank}.safetensors" for rank in range(2)]
    assert all(file.exists() for file in files), done.stderr
    return files


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("name", child.COUPLINGS)
def test_window_of_two_processes_is_one_assignment(
    written: list[Path], name: str, classes: bool, background: bool
) -> None:
    pairing: Pairing = child.pairing(name)
    expected: list[list[torch.Tensor]] = [[], []]
    for first in range(0, len(child.PLACES), child.SIZE):
        places = child.PLACES[first : first + child.SIZE]
        ours = [child.data(*place, rank) for rank in range(2) for place in places]
        own = [pairing.drawn(child.SHAPE, child.CPU, *place, rank) for rank in range(2) for place in places]
        labels = torch.cat([one.groups for one in ours]) if classes else None
        draws = pairing.draws(child.CPU, *places[0], 0)
        coupling = given(pairing.coupling, torch.cat([one.condition for one in ours]))
        noise = coupling(torch.cat([one.x for one in ours]), torch.cat(own), labels=labels, generator=draws)
        for rank, part in enumerate(noise.chunk(2)):
            expected[rank].append(part)
    for rank, file in enumerate(written):
        found = load_file(file)[f"{name} {classes} {background}"]
        torch.testing.assert_close(found, torch.cat(expected[rank]), rtol=0, atol=0)


def test_data_of_one_process_that_are_not_finite_are_told_on_both(written: list[Path]) -> None:
    told = []
    for file in written:
        with safe_open(file, "pt") as opened:
            told.append(opened.metadata()["told"])
    assert "rank 1 of the pool was given wrong input" in told[0]
    assert "`x` must be finite" in told[1]


FLAGS = (
    "train flow --data digits --steps 8 --batch-size 32 --accumulation 2 --width 16 --depth 1 --conditional "
    "--checkpoint-every 3 --log-every 2 --no-tensorboard --device cpu --warmup 2 --pool 80"
).split()


def test_run_of_two_processes_is_the_same_in_the_background(torchrun: Any, tmp_path: Path) -> None:
    ends = []
    for words in ([], ["--no-background"]):
        out = tmp_path / f"run{len(words)}"
        done = torchrun([*FLAGS, "--out", str(out), *words])
        assert done.returncode == 0, done.stderr
        assert "80 paired at once\na pool is 5 micro-batches of 8 images on each of 2 processes" in done.stderr
        ends.append(load_file(out / "checkpoints" / "step-8" / "model.safetensors"))
    torch.testing.assert_close(*ends, rtol=0, atol=0)
