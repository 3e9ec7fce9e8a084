"""What is done to images that are known to be bad, and which features are called unfit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from immiscible.data import Images, load
from immiscible.evaluation import ladder
from immiscible.evaluation.features import features_for
from immiscible.evaluation.ladder import Ladder, Rung, faults_of, faults_seen, measure

RANKED = Ladder("some", 500, 10.0, (Rung("blur", ("weak", "strong"), (12.0, 13.0)), Rung("noise", ("much",), (11.0,))))


class Brightness:
    """Features that see how bright an image is, twice."""

    name, dim = "brightness", 2

    def __call__(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :].mean(1, keepdim=True).expand(-1, 2)


@pytest.fixture(scope="module")
def digits() -> Images:
    return load("digits")


def apply(fault: str, strength: int, images: Tensor) -> Tensor:
    kinds = list(faults_of(images)[fault].values())
    return kinds[strength](images, torch.Generator().manual_seed(0))


def test_each_fault_is_what_it_is_called() -> None:
    images = torch.rand(40, 3, 11, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for strength in (0, 1):
        for fault in faults_of(images):
            assert apply(fault, strength, images).shape == images.shape
        shuffled = apply("shuffled patches", strength, images)
        assert not torch.equal(shuffled, images)
        torch.testing.assert_close(shuffled.flatten(1).sort().values, images.flatten(1).sort().values, rtol=0, atol=0)
    # What is constant has no edges to blur, and noise is as strong as it says.
    torch.testing.assert_close(apply("blur", 1, torch.full((2, 1, 8, 8), 0.3)), torch.full((2, 1, 8, 8), 0.3))
    assert apply("blur", 0, images).var() > apply("blur", 1, images).var()
    assert (apply("noise", 1, images) - images).std() == pytest.approx(0.3, rel=0.05)


def test_priors_have_the_mean_and_spread_of_the_data(digits: Images) -> None:
    images = digits.batch(torch.arange(1000))[0]
    for strength in (0, 1):
        drawn = apply("a prior without a network", strength, images)
        torch.testing.assert_close(drawn.mean(0), images.mean(0), atol=0.15, rtol=0)
        assert drawn.var(0).sum() == pytest.approx(images.var(0).sum().item(), rel=0.1)


def test_what_is_not_seen_or_not_ranked_is_missed() -> None:
    assert RANKED.missed == []
    assert RANKED.verdict.startswith("The features rank a ladder of known faults")
    unseen = replace(RANKED, rungs=(Rung("blur", ("weak", "strong"), (10.9, 13.0)),))
    assert unseen.missed == ["blur (weak) scores as real images do"]
    unranked = replace(RANKED, rungs=(Rung("blur", ("weak", "strong"), (13.0, 12.0)),))
    assert unranked.missed == ["blur scores no worse where it is stronger"]
    assert unranked.verdict.startswith("The features are unfit to tell what is worse")


def test_features_that_see_little_are_unfit(digits: Images) -> None:
    missed = " ".join(measure(Brightness(), digits).missed)
    assert "shuffled patches" in missed
    assert "blur" in missed
    seen = {rung.fault: rung.scores for rung in measure(features_for(digits, "pixels"), digits).rungs}
    assert seen["blur"][0] < seen["blur"][1]
    assert seen["copies"][0] < seen["copies"][1]


def test_a_ladder_is_measured_once(digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def counted(*given: object) -> Ladder:
        measured.append(given)
        return RANKED

    monkeypatch.setattr(ladder, "measure", counted)
    first = faults_seen(Brightness(), digits, 500, tmp_path)
    assert faults_seen(Brightness(), digits, 600, tmp_path) == first == json.loads(json.dumps(first))
    assert len(measured) == 1
    (kept,) = tmp_path.iterdir()
    kept.write_text('{"rungs": 3}')
    assert faults_seen(Brightness(), digits, 500, tmp_path) == first
    assert len(measured) == 2


def test_few_samples_and_few_or_large_images_have_no_ladder(digits: Images, tmp_path: Path) -> None:
    few = Images("few", digits.pixels[:999])
    large = Images("large", torch.zeros(1, 3, 512, 512, dtype=torch.uint8).expand(1000, -1, -1, -1))
    for data, samples in ((digits, 499), (few, 500), (large, 1000), (Images("flat", digits.pixels[:, :, :3]), 1000)):
        facts = faults_seen(Brightness(), data, samples, tmp_path)
        assert facts["verdict"].startswith("The ladder of known faults was not run")
        assert not facts["missed"]
