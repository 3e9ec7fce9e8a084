from __future__ import annotations

import pytest
import torch
from torch import Tensor

from immiscible.training.pairing import Pairing, Stopwatch


def double(
    x: Tensor, noise: Tensor, *, labels: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    return 2 * noise


@pytest.mark.parametrize(
    ("start", "stop", "coupled"), [(0, 0, [0, 1, 2, 3, 4]), (2, 0, [2, 3, 4]), (0, 3, [0, 1, 2]), (1, 4, [1, 2, 3])]
)
def test_noise_is_coupled_from_start_to_stop_only(start: int, stop: int, coupled: list[int]) -> None:
    x = torch.zeros(2, 3)
    watch = Stopwatch(torch.device("cpu"))
    always = Pairing(double, 0, watch)
    some = Pairing(double, 0, watch, start, stop)
    for step in range(5):
        ours, theirs = some.noise(x, None, step, 0, 0), always.noise(x, None, step, 0, 0)
        torch.testing.assert_close(ours, theirs if step in coupled else theirs / 2, rtol=0, atol=0)
