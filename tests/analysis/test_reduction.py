from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from immiscible.analysis.reduction import Table, reductions, scaling
from immiscible.errors import InputError


def natural(count: int) -> torch.Tensor:
    """Images that vary most in what is large, as photographs do."""
    draws = torch.Generator().manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.randn(count, 3, 4, 4, generator=draws), scale_factor=4)
    return 0.5 + 0.2 * coarse + 0.05 * torch.randn(count, 3, 16, 16, generator=draws)


def test_the_published_orders() -> None:
    table = Table(batch_sizes=(64, 256), pairs=512)
    found = reductions(natural(600), ["independent", "knn:4", "knn:8", "assignment"], table)
    percent = {(one.scale, one.coupling, one.batch_size): one.percent for one in found}
    for scale in ("unit", "range"):
        assert percent[scale, "independent", 64] == 0
        assert 0 < percent[scale, "knn:4", 256] < percent[scale, "knn:8", 256]
        assert 0 < percent[scale, "assignment", 64] < percent[scale, "assignment", 256]
    assert percent["range", "assignment", 256] < percent["unit", "assignment", 256]
    assert all(one.error < 0.3 for one in found)


def test_a_reduction_that_is_known() -> None:
    x = torch.full((32, 5), 3.0)
    found = reductions(x, [lambda x, noise, **_: x + 0.75 * (noise - x)], Table([8], ["raw"], 32))
    assert found[0].percent == pytest.approx(25, abs=1e-4)
    assert found[0].error < 1e-4
    assert found[0].batches == 4


def test_scales() -> None:
    x = torch.tensor(load_digits().images, dtype=torch.uint8)
    shift, divisor = scaling(x, "range")
    assert (shift, divisor) == (8, 8)
    shift, divisor = scaling(x, "unit")
    assert ((x - shift) / divisor).std().item() == pytest.approx(1, abs=1e-3)
    with pytest.raises(InputError, match="unit, range or raw"):
        scaling(x, "other")


def test_batches_larger_than_the_data_are_left_out() -> None:
    found = reductions(torch.randn(20, 3), ["independent"], Table((8, 64), ("raw",), 16))
    assert [one.batch_size for one in found] == [8]
