"""Where the weights of Inception come from, and what is done when they cannot be had. No network is needed."""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from immiscible.data import Images
from immiscible.errors import InputError
from immiscible.evaluation import features_for, inception

CONTENT = b"the weights"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the weights belong, in an empty hub folder, with a checksum that CONTENT has."""
    monkeypatch.setattr(inception, "SHA256_PREFIX", hashlib.sha256(CONTENT).hexdigest()[:8])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"


def answer_with(monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception) -> list[tuple[str, float]]:
    """Replaces the network, and records what is asked of it."""
    asked = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append((url, timeout))
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return asked


def test_weights_are_fetched_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer_with(monkeypatch, CONTENT)
    assert inception.weights() == path
    assert path.read_bytes() == CONTENT
    assert inception.weights() == path
    (url, timeout), *more = asked
    assert url.endswith("/" + path.name)
    assert timeout <= 3
    assert not more


def test_wrong_weights_are_never_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, b"a login page")
    with pytest.raises(InputError, match="SHA-256 that begins with"):
        inception.weights()
    assert not path.exists()


def test_damaged_weights_are_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer_with(monkeypatch, CONTENT)
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match=f"SHA-256.*{path.name}: delete it"):
        inception.weights()
    assert not asked


@pytest.mark.parametrize("error", [TimeoutError("timed out"), OSError("no route"), http.client.IncompleteRead(b"")])
def test_offline_the_place_for_the_file_is_told(path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    answer_with(monkeypatch, error)
    with pytest.raises(InputError, match=f"put https://.*{path.name} at {path}") as caught:
        inception.weights()
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, CONTENT)
    path.parent.touch()
    with pytest.raises(InputError, match="cannot be had"):
        inception.weights()


def test_without_torch_fidelity_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer_with(monkeypatch, CONTENT)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    large = Images("large", torch.randint(256, (8, 3, 32, 32)).to(torch.uint8))
    assert "principal components" in features_for(large).name
    with pytest.raises(InputError, match="`pip install torch-fidelity`"):
        features_for(large, "inception")
    assert not asked


class Bytes(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        assert pixels.dtype == torch.uint8
        return pixels.flatten(1).double()


@pytest.mark.parametrize("channels", [1, 3])
def test_images_become_rgb_bytes(channels: int) -> None:
    pixels = torch.arange(256).view(4, 1, 8, 8).expand(4, channels, 8, 8).to(torch.uint8)
    x, _ = Images("some", pixels).batch([0, 1, 2, 3])
    features = inception.InceptionFeatures(Bytes(), torch.device("cpu"))(x)
    assert features.dtype == torch.float32
    assert_close(features, pixels.expand(4, 3, 8, 8).flatten(1).float(), rtol=0, atol=0)


class Payload:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_weights_are_read_as_tensors_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "plain.pth")
    assert_close(torch.load(inception._plain_tensors(tmp_path / "plain.pth"))["a"], torch.ones(3))
    torch.save({"a": Payload()}, tmp_path / "payload.pth")
    with pytest.raises(Exception, match="Weights only load failed"):
        inception._plain_tensors(tmp_path / "payload.pth")
    assert capsys.readouterr().out == ""
