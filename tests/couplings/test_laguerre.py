"""Cells of given mass, against closed forms and brute force."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from immiscible.couplings.laguerre import ascend, centres_of, chi_square, nearest_of


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_cells_are_those_of_the_largest_score(monkeypatch):
    draws = seeded()
    points, centres, potentials = (torch.randn(*shape, generator=draws) for shape in ((97, 3), (11, 3), (11,)))
    best = [
        max(
            range(11),
            key=lambda j, u=u: sum(a * b for a, b in zip(u, centres[j].tolist(), strict=True)) + potentials[j],
        )
        for u in points.tolist()
    ]
    assert nearest_of(points, centres, potentials).tolist() == best
    monkeypatch.setattr("immiscible.couplings.laguerre.SCORES", 30)
    assert nearest_of(points, centres, potentials).tolist() == best


def test_without_potentials_the_nearest_centre_is_found():
    points, centres = torch.randn(97, 3, generator=seeded()), torch.randn(11, 3, generator=seeded(1))
    assert nearest_of(points, centres).tolist() == torch.cdist(points, centres).argmin(1).tolist()


def test_centres_are_the_means_of_what_is_nearest_to_them():
    blobs = torch.tensor([[0.0, 0], [50, 0], [0, 50]]).repeat_interleave(40, 0)
    points = blobs + torch.randn(120, 2, generator=seeded())
    centres = centres_of(points, 9, seeded(3))
    nearest = nearest_of(points, centres)
    means = torch.stack([points[nearest == j].mean(0) for j in range(len(centres))])
    torch.testing.assert_close(centres, means)


@pytest.mark.parametrize(("points", "most"), [(torch.zeros(20, 2), 1), (torch.randn(3, 2, generator=seeded()), 3)])
def test_there_are_no_more_centres_than_data_tell_apart(points, most):
    assert len(centres_of(points, 8, seeded())) == most


def test_two_cells_part_where_the_normal_law_says(monkeypatch):
    centres = torch.tensor([[-1.0], [1.0]])
    for weight in (0.5, 0.1, 0.9):
        monkeypatch.setattr("immiscible.couplings.laguerre.DRAWS", 2000)
        potentials = ascend(centres, torch.tensor([weight, 1 - weight]), seeded(2))
        # -u + b_0 >= u + b_1 below this.
        border = (potentials[0] - potentials[1]).item() / 2
        assert abs(border - stats.norm.ppf(weight)) < 0.02


def test_one_cell_needs_no_potential():
    assert ascend(torch.ones(1, 3), torch.ones(1), seeded()).tolist() == [0.0]
    assert chi_square(torch.ones(1, 3), torch.zeros(1), torch.ones(1), seeded()) == 0


def test_chi_square_is_one_by_chance_and_large_before_the_ascent():
    centres, weights = 3 * torch.randn(64, 4, generator=seeded()), torch.rand(64, generator=seeded(1)) + 0.2
    weights /= weights.sum()
    found = ascend(centres, weights, seeded(2))
    assert chi_square(centres, torch.zeros(64), weights, seeded(3)) > 50
    # Its standard deviation by chance is (2 / 63)^(1/2).
    assert abs(chi_square(centres, found, weights, seeded(3)) - 1) < 4 * (2 / 63) ** 0.5
