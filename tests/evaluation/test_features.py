"""Which features are chosen for which data, and how many images are embedded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from immiscible.data import Images
from immiscible.errors import InputError
from immiscible.evaluation import Features, embed, features_for
from immiscible.evaluation.classifier import ClassifierFeatures, Network
from immiscible.evaluation.features import default_cache
from immiscible.evaluation.inception import InceptionFeatures
from immiscible.evaluation.pca import PrincipalComponents


def data(channels: int, height: int, width: int, labelled: bool) -> Images:
    pixels = torch.randint(256, (40, channels, height, width), generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(40) % 2, ("a", "b")) if labelled else ()
    return Images("some", pixels.to(torch.uint8), *labels)


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "immiscible.evaluation.classifier.train", lambda some: (Network(some.shape, some.classes).eval(), 0.5)
    )
    # What is chosen must not depend on what is installed here.
    monkeypatch.setattr("immiscible.evaluation.efficientnet.installed", lambda: False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whether Inception was asked for, which is there."""
    asked = []

    def load(device: str) -> InceptionFeatures:
        asked.append(str(device))
        return InceptionFeatures(nn.Flatten(), torch.device(device))

    monkeypatch.setattr("immiscible.evaluation.inception.load", load)
    return asked


@pytest.fixture
def _no_inception(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(device: str) -> InceptionFeatures:
        raise InputError("no weights")

    monkeypatch.setattr("immiscible.evaluation.inception.load", load)


@pytest.mark.parametrize(
    ("some", "kind"),
    [
        (data(3, 32, 40, True), InceptionFeatures),
        (data(3, 32, 40, False), InceptionFeatures),
        (data(3, 31, 40, True), ClassifierFeatures),
        (data(3, 40, 31, False), PrincipalComponents),
        (data(1, 40, 40, True), ClassifierFeatures),
        (data(1, 8, 8, False), PrincipalComponents),
    ],
)
def test_auto_asks_for_inception_for_large_colour_images_only(
    some: Images, kind: type, tmp_path: Path, asked: list[str]
) -> None:
    assert isinstance(features_for(some, cache=tmp_path), kind)
    assert len(asked) == (kind is InceptionFeatures)


@pytest.mark.usefixtures("_no_inception")
@pytest.mark.parametrize(
    ("some", "kind"), [(data(3, 32, 32, True), ClassifierFeatures), (data(3, 32, 32, False), PrincipalComponents)]
)
def test_auto_does_without_inception(some: Images, kind: type, tmp_path: Path) -> None:
    assert isinstance(features_for(some, cache=tmp_path), kind)
    with pytest.raises(InputError, match="no weights"):
        features_for(some, "inception", cache=tmp_path)


@pytest.mark.parametrize(
    ("choice", "kind"),
    [("inception", InceptionFeatures), ("classifier", ClassifierFeatures), ("pixels", PrincipalComponents)],
)
@pytest.mark.parametrize("some", [data(1, 8, 8, True), data(3, 32, 32, True)])
@pytest.mark.usefixtures("asked")
def test_a_choice_is_kept_to(choice: str, kind: type, some: Images, tmp_path: Path) -> None:
    features = features_for(some, choice, cache=tmp_path)
    assert isinstance(features, kind)
    assert isinstance(features, Features)


def test_an_unknown_choice_gets_the_list() -> None:
    with pytest.raises(InputError, match="auto, inception, classifier, pixels, got `vgg`"):
        features_for(data(1, 8, 8, True), "vgg")


def test_few_images_per_class_are_too_few_for_a_classifier(tmp_path: Path) -> None:
    few = Images("some", torch.arange(30).to(torch.uint8).view(30, 1, 1, 1), torch.arange(30) % 4, tuple("abcd"))
    assert isinstance(features_for(few, cache=tmp_path), PrincipalComponents)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("IMMISCIBLE_CACHE", raising=False)
    assert default_cache() == tmp_path / ".cache" / "immiscible"
    monkeypatch.setenv("IMMISCIBLE_CACHE", "~/kept")
    assert default_cache() == tmp_path / "kept"
    features_for(data(1, 8, 8, True), "classifier")
    assert [path.suffix for path in (tmp_path / "kept").iterdir()] == [".safetensors"]


class Recorder:
    name, dim = "recorder", 2

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        assert not torch.is_grad_enabled()
        return images.flatten(1)[:, :2]


def test_images_are_embedded_in_batches_and_clamped() -> None:
    recorder = Recorder()
    images = torch.linspace(-2, 2, 28, dtype=torch.float64).view(7, 1, 2, 2)
    assert_close(embed(recorder, images, batch_size=3), images.float().flatten(1)[:, :2].clamp(-1, 1))
    assert recorder.sizes == [3, 3, 1]
