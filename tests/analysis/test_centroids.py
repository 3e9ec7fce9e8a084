from __future__ import annotations

import json
import math

import pytest
import torch
from sklearn.datasets import load_digits

from immiscible.analysis.centroids import CentroidSampling, centroids
from immiscible.errors import InputError

SAMPLING = CentroidSampling(images=16, noises=80, batch_size=64)


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    x = torch.tensor(load_digits().images, dtype=torch.float32)[:, None]
    return (x - x.mean()) / x.std()


def test_the_published_order_and_the_floor(digits) -> None:
    found = {name: centroids(digits, name, SAMPLING) for name in ("independent", "knn:8", "assignment")}
    plain = found["independent"]
    assert plain.expected_floor == pytest.approx(math.sqrt(2 * 64 / 80))
    assert plain.floor == pytest.approx(plain.expected_floor, rel=0.1)
    assert plain.distance == pytest.approx(plain.expected_floor, rel=0.1)
    assert abs(plain.square) < 5 * plain.square_error
    assert plain.distance < found["knn:8"].distance < found["assignment"].distance
    assert plain.corrected < found["knn:8"].corrected < found["assignment"].corrected


def test_published_floor_is_that_of_7260_noises() -> None:
    assert math.sqrt(2 * 3072 / 7260) == pytest.approx(0.92, abs=1e-3)


def test_a_known_distance_is_found_without_its_floor() -> None:
    x = torch.randn(40, 3, 2, generator=torch.Generator().manual_seed(0))
    sampling = CentroidSampling(images=40, noises=50, batch_size=40)
    found = centroids(x, lambda x, noise, **_: noise + 0.3 * x, sampling)
    expected = 0.3 * torch.cdist(x.flatten(1), x.flatten(1)).square().sum().div(40 * 39).sqrt().item()
    assert found.corrected == pytest.approx(expected, rel=0.15)
    assert found.distance**2 == pytest.approx(found.square + found.floor**2, rel=0.05)
    assert found.distance > 1.05 * found.corrected
    assert json.loads(json.dumps(found.as_dict()))["noises"] == 50


def test_what_cannot_be_split_is_said() -> None:
    with pytest.raises(InputError, match="even number"):
        centroids(torch.zeros(4, 2), "independent", CentroidSampling(2, 3, 4))
    with pytest.raises(InputError, match="at least 2, got 1"):
        centroids(torch.zeros(1, 2), "independent")
