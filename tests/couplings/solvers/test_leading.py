"""The leading components of a pool are the same on all ranks, and so is the share of the variance they hold."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from immiscible.couplings.distributed.ranks import Ranks
from immiscible.couplings.solvers.leading import Leading


class Meeting:
    """Ranks that are threads: each collective ends once all have called it."""

    def __init__(self, size: int) -> None:
        self.size, self.given, self.barrier = size, [torch.empty(0)] * size, threading.Barrier(size, timeout=60)

    def meet(self, rank: int, values: Tensor) -> list[Tensor]:
        self.given[rank] = values
        self.barrier.wait()
        given = list(self.given)
        self.barrier.wait()
        return given


class Thread:
    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting, self.rank, self.size = meeting, rank, meeting.size

    def concatenate(self, rows: Tensor, counts: list[int]) -> Tensor:
        given = self.meeting.meet(self.rank, rows)
        assert [len(part) for part in given] == counts
        return torch.cat(given)

    def from_first(self, values: Tensor) -> Tensor:
        return self.meeting.meet(self.rank, values)[0].clone()


@pytest.mark.parametrize("counts", [[1100], [700, 400], [800, 0, 300], [1, 1099]])
def test_share_is_the_same_on_all_ranks_and_that_of_the_whole_pool(counts: list[int]) -> None:
    x = torch.randn(1100, 3, 20, 10, generator=torch.Generator().manual_seed(0))
    x[:, 1] *= 3
    meeting = Meeting(len(counts))

    def held(rank: int) -> tuple[float, Tensor]:
        ranks: Any = Thread(meeting, rank)
        leading = Leading(x.split(counts)[rank], ranks, counts)
        return leading.held(), leading.fitted()[2]

    with ThreadPoolExecutor(len(counts)) as threads:
        found = list(threads.map(held, range(len(counts))))
    assert len({share for share, _ in found}) == 1
    for _, basis in found:
        torch.testing.assert_close(basis, found[0][1], rtol=0, atol=0)
    assert abs(found[0][0] - Leading(x, Ranks(), [1100]).held()) < 0.02
    assert 0.6 < found[0][0] < 0.8


def test_share_of_large_values_is_that_of_small_ones() -> None:
    x = torch.randn(1100, 1, 20, 20, generator=torch.Generator().manual_seed(1))
    small, large = (Leading(x * scale, Ranks(), [1100]).held() for scale in (1.0, 1e17))
    assert abs(small - large) < 1e-4
    assert 0.1 < small < 0.9
