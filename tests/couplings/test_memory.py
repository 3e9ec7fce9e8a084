"""KNN never holds the candidates: what it allocates is counted storage by storage."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from immiscible import KNN, LinearAssignment

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def peak_bytes(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("_timing").peak_bytes


def test_the_count_itself(peak_bytes):
    x = torch.randn(1000)
    assert peak_bytes(lambda: x.view(10, 100)[2:].mul_(1)) == 0
    assert peak_bytes(lambda: (x + 1).add_(1).view(10, 100)) == 4000
    assert peak_bytes(lambda: x + 1 + 1 + 1) == 8000
    assert peak_bytes(lambda: [x + 1 for _ in range(5)]) == 20000
    assert peak_bytes(lambda: [(x + 1).sum() for _ in range(5)]) < 4100


@pytest.mark.parametrize("score", ["l2", "dot"])
@pytest.mark.parametrize("k", [2, 8, 64, 1000, 10_000])
@pytest.mark.parametrize("shape", [(256, 3, 32, 32), (128, 4, 32, 32), (1024, 1, 16, 16), (1, 3, 307, 307)], ids=str)
def test_peak_is_three_tensors_of_the_size_of_the_data_at_any_k(peak_bytes, shape, k, score):
    x, noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    size = x.numel() * x.element_size()
    peak = peak_bytes(lambda: KNN(k, score)(x, noise, generator=torch.Generator().manual_seed(1)))
    assert size <= peak <= 3 * size


@pytest.mark.parametrize("dtypes", [(torch.float16, torch.float16), (torch.float32, torch.bfloat16)])
def test_peak_is_three_tensors_in_half_precision(peak_bytes, dtypes):
    x, noise = (torch.randn(256, 3, 32, 32).to(dtype) for dtype in dtypes)
    assert peak_bytes(lambda: KNN(64)(x, noise)) <= 3 * noise.numel() * noise.element_size()


@pytest.mark.parametrize("k", [64, 1_000_000])
@pytest.mark.parametrize("shape", [(3, 5), (1, 64)])
def test_small_data_needs_a_megabyte_at_most_at_any_k(peak_bytes, shape, k):
    x, noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    assert peak_bytes(lambda: KNN(k)(x, noise)) <= 2**20 + 2**12


def test_assignment_holds_the_cost_and_never_a_broadcast(peak_bytes):
    x, noise = torch.randn(2, 256, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    cost, size = 4 * 256**2, 4 * x.numel()
    assert peak_bytes(lambda: LinearAssignment()(x, noise)) <= size + 4 * cost
    assert peak_bytes(lambda: LinearAssignment(block=64)(x, noise)) <= 1.6 * size + 4 * cost
