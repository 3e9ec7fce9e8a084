"""Principal axes, against torch's singular values, and the check of a basis."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from immiscible.couplings.axes import check_orthonormal, principal_axes
from immiscible.errors import InputError

DTYPES = {torch.float32: 1e-3, torch.float64: 1e-9}


def falling(count: int, size: int, dtype: torch.dtype) -> Tensor:
    """Data far from zero, whose variance falls from axis to axis."""
    draws = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(size, size, generator=draws, dtype=dtype)).Q
    return 5 + torch.randn(count, size, generator=draws, dtype=dtype) * 0.7 ** torch.arange(size) @ turn


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES.items())
@pytest.mark.parametrize("shape", [(50, 7), (7, 50), (11, 11)])
def test_axes_are_those_of_the_largest_singular_values(
    shape: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    points = falling(*shape, dtype)
    mean, axes, squares = principal_axes(points, 5)
    torch.testing.assert_close(mean, points.mean(0))
    torch.testing.assert_close(axes.T @ axes, torch.eye(5, dtype=dtype), rtol=0, atol=tolerance)
    _, values, rows = torch.linalg.svd(points - mean, full_matrices=False)
    torch.testing.assert_close(squares, values[:5].square(), rtol=tolerance, atol=0)
    torch.testing.assert_close((rows[:5] @ axes).abs(), torch.eye(5, dtype=dtype), rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [None, 2, 100])
def test_there_are_as_many_axes_as_the_data_vary_along(count: int | None, dtype: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(0)
    points = torch.randn(40, 3, generator=draws, dtype=dtype) @ torch.randn(3, 60, generator=draws, dtype=dtype)
    _, axes, squares = principal_axes(points, count)
    assert axes.shape == (60, 2 if count == 2 else 3)
    assert (squares > 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 0.1, 1e-20, 1e17])
def test_equal_data_vary_along_no_axis(value: float, dtype: torch.dtype) -> None:
    _, axes, squares = principal_axes(torch.full((7, 4), value, dtype=dtype))
    assert axes.shape[1] >= 1
    assert not squares.any()


@pytest.mark.parametrize("scale", [1e-17, 1e17])
def test_axes_of_large_and_small_values_are_those_of_others(scale: float) -> None:
    points = falling(50, 7, torch.float32)
    ours, theirs = principal_axes(points * scale, 3).axes, principal_axes(points, 3).axes
    torch.testing.assert_close((ours.T @ theirs).abs(), torch.eye(3), rtol=0, atol=1e-3)


def test_rows_that_are_not_orthonormal_are_refused() -> None:
    check_orthonormal(principal_axes(falling(50, 7, torch.float32)).axes.T)
    with pytest.raises(InputError, match="`basis` must have orthonormal rows, got products of rows that are off by 1"):
        check_orthonormal(torch.ones(2, 1).T.expand(1, 2))
