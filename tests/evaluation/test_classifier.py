"""The small classifier: that it learns, repeats, is kept, and is replaced when its file is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from immiscible.data import Images, load
from immiscible.errors import InputError
from immiscible.evaluation import Reference, classifier, score
from immiscible.evaluation.classifier import ClassifierFeatures, Network, train_or_load


def squares(count: int = 60, side: int = 8, seed: int = 0) -> Images:
    """Bright or dark noise, told apart at once."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    pixels = 0.1 * torch.randn(count, 1, side, side, generator=generator) + labels.view(-1, 1, 1, 1) - 0.5
    return Images("squares", pixels.clamp(-1, 1), labels, ("dark", "bright"))


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "STEPS", (8, 8))


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def digits() -> Images:
    return load("digits")


@pytest.fixture(scope="module")
def digit_features(digits: Images, tmp_path_factory: pytest.TempPathFactory) -> ClassifierFeatures:
    return train_or_load(digits, tmp_path_factory.mktemp("cache"))


def test_digits_are_learnt(digits: Images, digit_features: ClassifierFeatures) -> None:
    name = digit_features.name
    assert name.startswith("classifier on digits (64 features, ")
    accuracy = float(name.removesuffix(" % held-out accuracy)").rsplit(" ", 1)[1])
    assert 96 <= accuracy <= 100
    features = digit_features(digits.batch([1, 2, 3])[0])
    assert (features.shape, features.dtype, digit_features.dim) == ((3, 64), torch.float32, 64)
    assert not features.requires_grad


def test_a_dropped_class_lowers_recall_of_digits(digits: Images, digit_features: ClassifierFeatures) -> None:
    assert digits.labels is not None
    even, odd = torch.arange(0, 1797, 2), torch.arange(1, 1797, 2)
    thinned = Images("even digits", digits.pixels[even], digits.labels[even], digits.class_names)
    reference = Reference(digit_features, thinned)
    full = score(digits.batch(odd)[0], reference)
    dropped = score(digits.batch(odd[digits.labels[odd] >= 4])[0], reference)
    assert full.recall > 0.85
    assert 0.45 < dropped.recall < 0.65
    assert dropped.precision > 0.85
    assert dropped.fid > 20 * full.fid


def test_the_accuracy_is_that_on_images_never_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels by chance cannot be guessed."""
    monkeypatch.setattr(classifier, "STEPS", (100, 100))
    data = squares(200)
    chance = torch.randint(2, (200,), generator=torch.Generator().manual_seed(1))
    seen: list[Tensor] = []
    batch = Images.batch

    def record(self: Images, index: Tensor | list[int]) -> tuple[Tensor, Tensor | None]:
        seen.append(torch.as_tensor(index))
        return batch(self, index)

    monkeypatch.setattr(Images, "batch", record)
    _, accuracy = classifier.train(Images("chance", data.pixels, chance, ("a", "b")))
    assert 0.2 <= accuracy <= 0.8
    trained, held_out = torch.cat(seen[:-1]).unique(), seen[-1]
    assert len(held_out) == 20
    assert sorted([*trained.tolist(), *held_out.tolist()]) == list(range(200))


@pytest.mark.usefixtures("_short")
def test_training_repeats_and_leaves_the_random_state_alone(tmp_path: Path) -> None:
    data = squares()
    torch.manual_seed(0)
    first = train_or_load(data, tmp_path / "a")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with torch.no_grad():
        second = train_or_load(data, tmp_path / "b")
    again = train_or_load(data, tmp_path / "b")
    assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    for name, weights in first.network.state_dict().items():
        assert_close(second.network.state_dict()[name], weights, rtol=0, atol=0)
        assert_close(again.network.state_dict()[name], weights, rtol=0, atol=0)
    assert first.name == second.name == again.name


@pytest.mark.usefixtures("_short")
def test_the_second_call_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = squares()
    first = train_or_load(data, tmp_path)
    monkeypatch.setattr(classifier, "train", None)
    second = train_or_load(Images("renamed", data.pixels, data.labels, data.class_names), tmp_path)
    x = data.batch([0, 1, 2])[0]
    assert_close(second(x), first(x), rtol=0, atol=0)
    assert second.name == first.name.replace("squares", "renamed")


@pytest.mark.usefixtures("_short")
def test_other_data_and_other_recipes_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_or_load(squares(), tmp_path)
    train_or_load(squares(seed=1), tmp_path)
    monkeypatch.setattr(classifier, "RECIPE", classifier.RECIPE + 1)
    train_or_load(squares(), tmp_path)
    assert len(files_in(tmp_path)) == 3


def damage(content: bytes, how: str) -> bytes:
    if how == "flipped":
        return content[:-50] + bytes([content[-50] ^ 1]) + content[-49:]
    if how == "better accuracy":
        digit = content.index(b'"accuracy":"') + len(b'"accuracy":"')
        return content[:digit] + b"9" + content[digit + 1 :]
    return {"cut": content[:-50], "empty": b"", "text": b"no network"}[how]


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("how", ["cut", "empty", "text", "flipped", "better accuracy"])
def test_a_damaged_file_is_replaced_with_a_warning(tmp_path: Path, how: str) -> None:
    data = squares()
    first = train_or_load(data, tmp_path)
    (path,) = files_in(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole, how))
    with pytest.warns(UserWarning, match="is damaged and will be replaced"):
        second = train_or_load(data, tmp_path)
    x = data.batch([0, 1, 2])[0]
    assert_close(second(x), first(x), rtol=0, atol=0)
    assert files_in(tmp_path) == [path]
    assert train_or_load(data, tmp_path).name == first.name


@pytest.mark.usefixtures("_short")
def test_a_file_of_another_network_is_replaced(tmp_path: Path) -> None:
    train_or_load(squares(), tmp_path)
    (path,) = files_in(tmp_path)
    other = squares(seed=1)
    other = Images("three", other.pixels, torch.arange(60) % 3, ("a", "b", "c"))
    path.rename(tmp_path / f"classifier-{classifier.RECIPE}-{other.fingerprint()[:24]}.safetensors")
    with pytest.warns(UserWarning, match="damaged"):
        assert train_or_load(other, tmp_path).network.logits.out_features == 3


@pytest.mark.usefixtures("_short")
def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="cannot keep the classifier"):
        features = train_or_load(squares(), tmp_path / "file")
    assert features.dim == 64


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 5), (1, 8, 8), (3, 28, 28), (3, 17, 64)])
def test_images_of_any_size_have_64_features(shape: tuple[int, int, int]) -> None:
    network = Network(shape, 3)
    assert network.features(torch.zeros(2, *shape)).shape == (2, 64)
    assert network(torch.zeros(2, *shape)).shape == (2, 3)


@pytest.mark.parametrize(
    ("labels", "names", "problem"),
    [
        (None, (), "two classes, but some has no labels"),
        (torch.zeros(30, dtype=torch.int64), ("a",), "two classes, but some has 1"),
        (torch.arange(30) % 4, tuple("abcd"), "10 images per class, but some has 30 in 4 classes: choose `pixels`"),
    ],
)
def test_data_without_enough_to_learn_is_refused(
    labels: Tensor | None, names: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=problem):
        train_or_load(Images("some", torch.zeros(30, 1, 4, 4), labels, names), tmp_path)
