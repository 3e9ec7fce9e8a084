from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from immiscible.errors import InputError
from immiscible.samplers import Solver, parse_solvers


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


def test_lists_of_calls_are_read() -> None:
    assert parse_solvers("2, 10,adaptive") == [Solver("euler", 2), Solver("euler", 10), Solver("adaptive")]
    assert parse_solvers("4", "heun") == [Solver("heun", 4)]
    assert [str(solver) for solver in parse_solvers("2,adaptive")] == ["2", "adaptive"]


@pytest.mark.parametrize(
    ("text", "method"), [("0", "euler"), ("x", "euler"), ("", "euler"), ("3", "heun"), ("-1", "euler")]
)
def test_bad_lists_are_refused_in_one_line(text: str, method: str) -> None:
    with pytest.raises(InputError, match="nfe") as caught:
        parse_solvers(text, method)  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(caught.value)
