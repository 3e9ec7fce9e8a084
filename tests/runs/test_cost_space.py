from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from immiscible import InSpace, LinearAssignment
from immiscible.config.recipes import FlowConfig
from immiscible.data import Images, load
from immiscible.errors import InputError
from immiscible.runs.cost_space import fit_cost_space


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


@pytest.mark.parametrize("count", [1, 10, 61])
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
    monkeypatch.setattr("immiscible.runs.cost_space.IMAGES", 50)
    data = photographs()
    basis = fit_cost_space(config(cost_space="pca:7"), data).basis
    assert basis is not None
    torch.testing.assert_close(basis @ basis.T, torch.eye(7), rtol=0, atol=1e-4)


def blurred(count: int, side: int, steepness: float) -> Images:
    """Smooth images, whose variance falls by many orders of magnitude from axis to axis."""
    draws = torch.Generator().manual_seed(1)
    frequency = torch.cartesian_prod(*[torch.fft.fftfreq(side, 1 / side)] * 2).norm(dim=1).view(side, side)
    white = torch.fft.fft2(torch.randn(count, 3, side, side, generator=draws))
    pixels = torch.fft.ifft2(white * torch.exp(-steepness * frequency)).real
    return Images("blurred", (0.3 * pixels / pixels.std()).clamp(-1, 1))


@pytest.mark.parametrize("steepness", [0.5, 3.0])
def test_noise_keeps_its_law_along_axes_of_smooth_images(steepness: float) -> None:
    data = blurred(200, 64, steepness)
    space = fit_cost_space(config(cost_space="pca:128"), data)
    assert space.basis is not None
    torch.testing.assert_close(space.basis @ space.basis.T, torch.eye(128), rtol=0, atol=1e-5)
    x = data.batch(torch.arange(200))[0]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    coupled = InSpace(LinearAssignment(), space)(x, noise)
    torch.testing.assert_close(coupled.square().mean(), noise.square().mean(), rtol=1e-4, atol=0)


def test_more_axes_than_the_data_varies_along_are_refused() -> None:
    draws = torch.Generator().manual_seed(3)
    pixels = (torch.rand(50, 4, generator=draws) @ torch.rand(4, 3 * 32 * 32, generator=draws)).view(50, 3, 32, 32) / 4
    data = Images("of rank four", pixels)
    basis = fit_cost_space(config(cost_space="pca:4"), data).basis
    assert basis is not None
    torch.testing.assert_close(basis @ basis.T, torch.eye(4), rtol=0, atol=1e-5)
    for some, most in ((pixels, 4), (torch.zeros(5, 1, 4, 4), 0)):
        with pytest.raises(InputError, match=f"N of at most {most} for this data, .* got pca:5\\.$"):
            fit_cost_space(config(cost_space="pca:5"), Images("some", some))


def test_mirrored_data_has_a_mirrored_mean() -> None:
    centre = fit_cost_space(config(flip=True), load("digits")).centre
    assert centre is not None
    torch.testing.assert_close(centre, centre.flip(-1))
    torch.testing.assert_close(centre.mean(), load("digits").mean().mean())


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("pooled:3", "multiples of N, got 8 x 8 and pooled:3"),
        ("pca:62", "N of at most 61 for this data, which varies along no more axes, got pca:62"),
    ],
)
def test_spaces_that_do_not_fit_the_data_are_refused(space: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        fit_cost_space(config(cost_space=space), load("digits"))
    assert said in str(caught.value)
