from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from immiscible.samplers import Solver


def growth(x: Tensor, t: Tensor) -> Tensor:
    """dx/dt = x, whose solution at t = 1 is e times the start."""
    assert t.shape == (len(x),)
    return x


@pytest.mark.parametrize(
    ("solver", "calls", "result"),
    [
        (Solver("euler", 1), 1, 2.0),
        (Solver("euler", 5), 5, 1.2**5),
        (Solver("heun", 2), 2, 2.5),
        (Solver("heun", 6), 6, (1 + 1 / 3 + 1 / 18) ** 3),
    ],
)
def test_fixed_steps_follow_their_formula_and_count_their_calls(solver: Solver, calls: int, result: float) -> None:
    noise = torch.randn(3, 2, 5, dtype=torch.float64)
    drawn = solver(growth, noise)
    assert drawn.nfe == calls
    torch.testing.assert_close(drawn.images, noise * result)


def test_adaptive_reaches_its_tolerance_and_counts_its_calls() -> None:
    calls = 0

    def counted(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return growth(x, t)

    drawn = Solver("adaptive", tolerance=1e-6)(counted, torch.ones(2, 3, dtype=torch.float64))
    assert drawn.nfe == calls > 6
    torch.testing.assert_close(drawn.images, torch.full((2, 3), math.e, dtype=torch.float64), rtol=1e-5, atol=0)


def test_times_run_from_noise_to_data() -> None:
    seen: list[float] = []

    def spy(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t[0].item())
        return torch.zeros_like(x)

    Solver("euler", 4)(spy, torch.zeros(1, 2))
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_shifted_times_have_the_ratio_of_signal_to_noise_times_the_shift() -> None:
    seen: list[float] = []

    def spy(x: Tensor, t: Tensor) -> Tensor:
        seen.append(t[0].item())
        return torch.zeros_like(x)

    Solver("euler", 4)(spy, torch.zeros(1, 2, dtype=torch.float64), 3.0)
    ratios = [t / (1 - t) for t in seen]
    torch.testing.assert_close(ratios, [3 * u / (1 - u) for u in (0.0, 0.25, 0.5, 0.75)])


@pytest.mark.parametrize("solver", [Solver("euler", 7), Solver("heun", 6)])
def test_shifted_steps_add_up_to_the_whole_way(solver: Solver) -> None:
    noise = torch.randn(3, 5, dtype=torch.float64)
    drawn = solver(lambda x, t: torch.ones_like(x), noise, 2.5)
    torch.testing.assert_close(drawn.images, noise + 1)
