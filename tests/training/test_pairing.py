from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from immiscible.training import pairing
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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that only what is called moves on, and a GPU that waits for nothing."""
    now = [0.0]
    monkeypatch.setattr(pairing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)

    def move_on(seconds: float) -> None:
        now[0] += seconds

    return move_on


@pytest.mark.parametrize("period", [2, 3, 5, 10])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_blocks_of_several_kinds_that_take_turns_are_timed_alike(
    clock: Callable[[float], None], device: str, period: int
) -> None:
    """An assignment is begun in one block, which is short, and collected in another, which waits."""
    watch = Stopwatch(torch.device(device))
    for number in range(100 * period):
        with watch:
            clock(0.05 * period if number % period == period - 1 else 0.0)
    assert watch.mean_ms == pytest.approx(50, rel=0.15)
    # On a GPU to time is to wait, which must be rare.
    assert watch.timed == watch.entered if device == "cpu" else watch.timed == pytest.approx(10 * period, rel=0.1)
