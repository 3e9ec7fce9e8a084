"""Whether a source has the law of the noise."""

from __future__ import annotations

import torch

from immiscible.analysis.gap import measure_gap
from immiscible.couplings.mixtures import fit_mixture
from immiscible.couplings.source import LowRankMixture


def law(shift: float = 0.0, labels: bool = False) -> LowRankMixture:
    draws = torch.Generator().manual_seed(0)
    codes = torch.randn(4000, 2, generator=draws) * 0.5 + shift
    kinds = torch.arange(4000) % 2
    if labels:
        codes += 3 * kinds[:, None]
    basis = torch.linalg.qr(torch.randn(9, 2, generator=draws))[0].T.contiguous()
    return LowRankMixture.along(basis, fit_mixture(codes, kinds if labels else None, components=1))


def test_gap_of_the_same_law_is_chance_and_of_another_is_said() -> None:
    noise = law().sample((4000, 9), generator=torch.Generator().manual_seed(5))
    same, other = measure_gap(noise, law()), measure_gap(noise, law(0.4))
    assert same.largest < same.chance < 0.05
    assert same.warning() is None
    assert same.said().startswith("the source has the law of the noise: their distributions are at most 0.0")
    assert other.largest > 0.2
    assert str(other.warning()).startswith("the source does not have the law of the noise: their distributions are")
    assert other.said() == other.warning()


def test_each_class_is_compared_with_its_own_law() -> None:
    source, labels = law(labels=True), torch.arange(4000) % 2
    noise = source.sample((4000, 9), labels=labels, generator=torch.Generator().manual_seed(5))
    gap = measure_gap(noise, source, labels)
    assert gap.largest < gap.chance
