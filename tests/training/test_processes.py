"""Training in several processes: each draws noise of its own and takes its share of the same batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from immiscible.couplings import Independent
from immiscible.training.pairing import Pairing, Stopwatch

FLAGS = (
    "train flow --data digits --coupling assignment --steps 6 --batch-size 32 --accumulation 2 --width 16 --depth 1 "
    "--checkpoint-every 3 --log-every 1 --no-tensorboard --device cpu"
).split()


def test_ranks_and_micro_batches_draw_different_noise() -> None:
    pairing = Pairing(Independent(), 0, Stopwatch(torch.device("cpu")))
    x = torch.zeros(3, 1, 2, 2)
    drawn = [pairing.noise(x, None, step, micro, rank) for step in (0, 1) for micro in (0, 1) for rank in (0, 1)]
    for i, one in enumerate(drawn):
        assert not any(torch.equal(one, other) for other in drawn[:i])
    torch.testing.assert_close(pairing.noise(x, None, 0, 1, 1), drawn[3], rtol=0, atol=0)


@pytest.mark.slow
def test_two_processes_train_one_run(tmp_path: Path) -> None:
    """Judged by what they leave: gloo may abort when the interpreter ends, long after the work is done."""
    out = tmp_path / "run"
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "immiscible.cli"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*words, *FLAGS, "--out", str(out)], env=environment, capture_output=True, text=True)
    assert (out / "summary.json").exists(), done.stderr
    assert "8 paired at once" in done.stderr
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-3", "step-6"]
