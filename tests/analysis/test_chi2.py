from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from immiscible.analysis.chi2 import log_survival
from immiscible.errors import InputError


@pytest.mark.parametrize(
    ("dims", "error"), [(1, 1e-12), (2, 2e-7), (5, 2e-7), (15, 3e-7), (16, 1e-4), (64, 4e-6), (3072, 2e-6)]
)
@pytest.mark.parametrize("share", [0.0, 1.0, 10.0])
def test_tails_are_those_of_scipy(dims: int, error: float, share: float) -> None:
    shift = share * dims
    mean, deviation = dims + shift, math.sqrt(2 * dims + 4 * shift)
    places = [-5, -3, -1, -1e-3, -1e-5, 0, 1e-5, 1e-3, 1, 3, 6]
    q = torch.tensor([max(mean + place * deviation, 0.01 * dims) for place in places], dtype=torch.float64)
    law = stats.ncx2(dims, shift) if shift else stats.chi2(dims)
    ours = log_survival(q, dims, torch.tensor(shift, dtype=torch.float64))
    torch.testing.assert_close(ours, torch.from_numpy(law.logsf(q.numpy())), rtol=0, atol=error)


def test_far_tails_stay_finite_and_fall() -> None:
    for dims in (3, 64, 3072):
        q = dims * torch.logspace(-6, 3, 200, dtype=torch.float64)
        logs = log_survival(q, dims, torch.tensor(float(dims), dtype=torch.float64))
        assert logs.isfinite().all()
        assert (logs.diff() <= 1e-9).all()
        assert logs[-1] < -100 * dims


def test_many_values_are_worked_on_in_parts() -> None:
    q = torch.linspace(50, 300, 40_000, dtype=torch.float64).view(200, 200)
    shift = torch.linspace(0, 90, 200, dtype=torch.float64)
    ours = log_survival(q, 64, shift)
    torch.testing.assert_close(ours[150], log_survival(q[150], 64, shift), rtol=0, atol=0)


def test_there_is_at_least_one_degree() -> None:
    with pytest.raises(InputError, match="at least 1, got 0"):
        log_survival(torch.ones(1), 0, torch.ones(1))
