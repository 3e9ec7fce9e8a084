from __future__ import annotations

import pytest
import torch

from immiscible.analysis.memory import most_memory
from immiscible.couplings import parse_coupling


def test_the_count_itself() -> None:
    x = torch.zeros(1000)
    assert most_memory(lambda: None) == 0
    assert most_memory(lambda: x.view(10, 100)[2:].mul_(1)) == 0
    assert most_memory(lambda: (x + 1).add_(1).view(10, 100)) == 4000
    assert most_memory(lambda: x + 1 + 1 + 1) == 8000
    assert most_memory(lambda: [x + 1 for _ in range(5)]) == 20_000
    assert most_memory(lambda: [(x + 1).sum() for _ in range(5)]) < 4100
    assert most_memory(lambda: (x + 1).split(10)[0] + torch.cat([x, x]).chunk(200)[0]) == 4000 + 8000 + 40


def test_a_view_keeps_the_memory_of_its_base() -> None:
    x = torch.zeros(1000)
    kept = []

    def call() -> None:
        kept.append((x + 1)[:1])
        kept.append(x + 2)

    # Else views keep the tensor that they are of.
    with torch.inference_mode():
        assert most_memory(call) == 8000


def test_what_is_gone_does_not_count() -> None:
    # Kept in pairs, so that neither a place in memory nor a name is taken again.
    def call() -> None:
        for size in range(1000, 6000, 1000):
            pair = torch.zeros(size), torch.zeros(size)
            del pair

    assert most_memory(call) == 2 * 4 * 5000


@pytest.mark.parametrize(("spelling", "tensors"), [("independent", 0), ("knn:8", 1), ("assignment", 1)])
def test_couplings_hold_what_they_say(spelling: str, tensors: int) -> None:
    x, noise = torch.randn(2, 64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    size = x.numel() * 4
    peak = most_memory(lambda: parse_coupling(spelling)(x, noise))
    # Beside whole tensors only scalars for each datum, or the cost of each pair.
    assert tensors * size <= peak < tensors * size + 0.5 * size
