from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from immiscible.data import Images, load
from immiscible.errors import InputError
from immiscible.tasks.ranking import fit_cost_space
from immiscible.training.recipes import FlowConfig


def config(**values: Any) -> FlowConfig:
    return FlowConfig(out=Path("run"), **values)


def photographs() -> Images:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.rand(200, 3, 4, 6, generator=draws) * torch.tensor([0.1, 0.5, 1.0]).view(3, 1, 1)
    return Images("photographs", pixels)


def test_raw_ranks_data_as_it_is() -> None:
    assert fit_cost_space(config(cost_space="raw"), photographs()).trivial


def test_centred_data_has_no_mean_at_any_scale() -> None:
    data = photographs()
    for scale in (1.0, 3.0):
        space = fit_cost_space(config(data_scale=scale), data)
        ranked = space.standardize(scale * data.batch(list(range(200)))[0])
        torch.testing.assert_close(ranked.mean(0), torch.zeros(3, 4, 6), rtol=0, atol=1e-6)


def test_standardized_data_has_unit_variance_in_each_channel() -> None:
    data = photographs()
    space = fit_cost_space(config(cost_space="standardized", data_scale=2.0), data)
    ranked = space.standardize(2 * data.batch(list(range(200)))[0])
    torch.testing.assert_close(ranked.square().mean((0, 2, 3)), torch.ones(3), rtol=1e-3, atol=0)


def test_a_channel_without_variance_does_no_harm() -> None:
    pixels = photographs().pixels.clone()
    pixels[:, 1] = 0.5
    data = Images("flat", pixels)
    space = fit_cost_space(config(cost_space="standardized"), data)
    assert bool(space.standardize(data.batch([0])[0]).isfinite().all())


@pytest.mark.parametrize("count", [1, 10, 63])
def test_components_are_the_leading_ones(count: int) -> None:
    data = load("digits")
    basis = fit_cost_space(config(cost_space=f"pca:{count}"), data).basis
    assert basis is not None
    torch.testing.assert_close(basis @ basis.T, torch.eye(count), rtol=0, atol=1e-5)
    rows = data.batch(list(range(len(data))))[0].flatten(1)
    rows = rows - rows.mean(0)
    leading = torch.linalg.svdvals(rows)[:count]
    torch.testing.assert_close((rows @ basis.T).norm(dim=0), leading, rtol=1e-3, atol=1e-2)


def test_components_of_few_large_images_are_orthonormal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("immiscible.tasks.ranking.IMAGES", 50)
    data = photographs()
    basis = fit_cost_space(config(cost_space="pca:7"), data).basis
    assert basis is not None
    torch.testing.assert_close(basis @ basis.T, torch.eye(7), rtol=0, atol=1e-4)


def test_mirrored_data_has_a_mirrored_mean() -> None:
    centre = fit_cost_space(config(flip=True), load("digits")).centre
    assert centre is not None
    torch.testing.assert_close(centre, centre.flip(-1))
    torch.testing.assert_close(centre.mean(), load("digits").mean().mean())


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("pooled:3", "multiples of N, got 8 x 8 and pooled:3"),
        ("pca:65", "N of at most 64 for this data, got pca:65"),
    ],
)
def test_spaces_that_do_not_fit_the_data_are_refused(space: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        fit_cost_space(config(cost_space=space), load("digits"))
    assert said in str(caught.value)
