from __future__ import annotations

import pytest
import torch
from torch import Tensor

from immiscible import LinearAssignment, ResidualSpace, coupling
from immiscible.analysis.drift import Drift, measure_drift
from immiscible.couplings.spaces import CostSpace, InSpace
from immiscible.data import load
from immiscible.errors import InputError


@pytest.mark.parametrize("spelling", ["independent", "assignment", "assignment@0.5", "assignment:32", "knn:1"])
def test_exact_couplings_do_not_drift(spelling: str) -> None:
    drift = measure_drift(coupling(spelling), load("digits"), batch_size=64, batches=16)
    assert not drift.biased
    assert drift.warning() is None
    torch.testing.assert_close(drift.norm_ratio, 1.0, rtol=0, atol=0.02)


@pytest.mark.parametrize(("spelling", "least", "most"), [("knn:4", 0.80, 0.93), ("knn:8", 0.75, 0.90)])
def test_knn_shrinks_the_noise_and_is_told(spelling: str, least: float, most: float) -> None:
    drift = measure_drift(coupling(spelling), load("digits"), batch_size=64, batches=16)
    assert least < drift.norm_ratio < most
    assert drift.biased
    assert f"E|n|^2/D = {drift.norm_ratio:.3f}" in (drift.warning() or "")


def test_centring_removes_the_shift_of_the_mean() -> None:
    data = load("digits")
    raw = measure_drift(coupling("knn:8:dot"), data, batch_size=64, batches=16)
    space = CostSpace(centre=data.mean())
    centred = measure_drift(InSpace(coupling("knn:8:dot"), space), data, batch_size=64, batches=16)
    assert raw.mean_shift > 4 * raw.expected_mean_shift
    assert centred.mean_shift < 2 * centred.expected_mean_shift


def test_larger_data_drifts_more() -> None:
    data = load("digits")
    ratios = [measure_drift(coupling("knn:4"), data, scale=scale, batch_size=64).norm_ratio for scale in (0.1, 1, 3)]
    assert ratios == sorted(ratios)


@pytest.mark.parametrize(
    ("ratio", "exact", "refused"),
    [
        (1.0, True, False),
        (1.9, True, False),
        (2.1, True, True),
        (0.4, True, True),
        (1e11, True, True),
        (0.4, False, False),
        (float("nan"), False, True),
        (float("inf"), False, True),
    ],
)
def test_what_is_no_noise_is_not_trained_on(ratio: float, exact: bool, refused: bool) -> None:
    drift = Drift(ratio, 0.01, 0.01, 0.01)
    if not refused:
        drift.check("knn:4", exact)
        return
    with pytest.raises(InputError, match="noise that knn:4 pairs must be standard normal") as caught:
        drift.check("knn:4", exact)
    assert "\n" not in str(caught.value)


def test_data_with_a_condition_are_paired_given_it() -> None:
    draws = torch.Generator().manual_seed(0)
    condition = torch.randn(256, 3, generator=draws)
    x = condition.repeat(1, 2) + 0.5 * torch.randn(256, 6, generator=draws)

    class Observed:
        shape = (6,)

        def __len__(self) -> int:
            return len(x)

        def batch(self, index: Tensor) -> tuple[Tensor, None]:
            return x[index], None

        def mean(self) -> Tensor:
            return x.mean(0)

        def condition(self, index: Tensor) -> Tensor:
            return condition[index]

    coupling = InSpace(LinearAssignment(), ResidualSpace.fit(x, condition))
    drift = measure_drift(coupling, Observed(), batch_size=64, batches=8)
    assert not drift.biased
