"""Principal components of the pixels, against scikit-learn's."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA
from torch.testing import assert_close

from immiscible.data import Images
from immiscible.errors import InputError
from immiscible.evaluation.pca import fit


def smooth(count: int, side: int, channels: int = 3) -> Images:
    """Images with a falling spectrum, so that components are well apart."""
    generator = torch.Generator().manual_seed(0)
    dims = channels * side * side
    basis = torch.linalg.qr(torch.randn(dims, dims, generator=generator)).Q
    scales = 0.9 ** torch.arange(dims)
    pixels = torch.randn(count, dims, generator=generator) * scales @ basis + 0.2
    return Images("some", (0.1 * pixels).clamp(-1, 1).view(count, channels, side, side))


@pytest.mark.parametrize(("count", "side", "dim"), [(500, 3, 27), (500, 6, 64), (90, 8, 64), (30, 8, 29)])
def test_distances_are_those_of_sklearn(count: int, side: int, dim: int) -> None:
    data = smooth(count, side)
    features = fit(data)
    assert features.dim == dim
    assert features.name == f"{dim} principal components of the pixels"
    x = data.batch(torch.arange(count))[0]
    expected = torch.from_numpy(PCA(dim, svd_solver="full").fit_transform(x.flatten(1).double().numpy())).float()
    assert_close(features(x).mean(0), torch.zeros(dim), rtol=0, atol=1e-5)
    assert_close(features(x).abs(), expected.abs(), rtol=1e-3, atol=1e-4)


def test_pixels_that_never_change_are_left_out() -> None:
    pixels = smooth(100, 3).pixels.clone()
    pixels[:, :, 0] = 0
    assert fit(Images("some", pixels)).dim == 18


def test_many_images_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("immiscible.evaluation.pca.IMAGES", 50)
    data = smooth(500, 3)
    x = data.batch([1, 2, 3])[0]
    assert_close(fit(data)(x), fit(Images("some", data.pixels[::10]))(x), rtol=0, atol=0)


@pytest.mark.parametrize("count", [1, 5])
def test_equal_images_are_refused(count: int) -> None:
    with pytest.raises(InputError, match="at least two different images"):
        fit(Images("some", torch.full((count, 1, 4, 4), 0.1)))
