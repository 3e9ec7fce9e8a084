"""Latents on disk: the same as fresh ones, resumed, verified, shared."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from immiscible.config.recipes import StableDiffusionConfig
from immiscible.data import Images
from immiscible.errors import InputError
from immiscible.tasks.registry import make_task
from immiscible.tasks.stable_diffusion import cache
from immiscible.training.sources import Source

Configure = Callable[..., StableDiffusionConfig]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ROWS", 600)


def source(config: StableDiffusionConfig, data: Images) -> Source:
    return make_task(config, data).source(data, CPU)


def shards(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("cache/latents/*/shard-*.safetensors"))


@pytest.mark.parametrize("flip", [False, True])
def test_cached_latents_are_the_fresh_ones(configure: Configure, digits: Images, tmp_path: Path, flip: bool) -> None:
    index = torch.tensor([0, 1500, 700, 699])
    fresh = source(configure(flip=flip), digits).draw(index, (3, 0, 0))
    cached = source(configure(flip=flip, cache_latents=True), digits).draw(index, (3, 0, 0))
    torch.testing.assert_close(cached.x, fresh.x, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(cached.condition, fresh.condition)
    assert len(shards(tmp_path)) == (6 if flip else 3)


def test_flips_are_seen(configure: Configure, digits: Images) -> None:
    index = torch.arange(16)
    plain, flipped = (
        source(configure(flip=flip, cache_latents=True), digits).draw(index, (0, 0, 0)) for flip in (False, True)
    )
    changed = (plain.x - flipped.x).flatten(1).abs().amax(1) > 0.05
    assert 2 <= int(changed.sum()) <= 14


def test_only_what_is_missing_or_damaged_is_encoded_anew(
    configure: Configure, digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config = configure(cache_latents=True)
    before = source(config, digits).draw(torch.arange(1797), (0, 0, 0)).x
    first, _, third = shards(tmp_path)
    first.with_suffix(".json").unlink()
    data = bytearray(third.read_bytes())
    data[-1] ^= 1
    third.write_bytes(data)
    written = []
    write = cache.Shard.write

    def spy(self: cache.Shard, tensors: dict[str, torch.Tensor]) -> None:
        written.append(self.path)
        write(self, tensors)

    monkeypatch.setattr(cache.Shard, "write", spy)
    after = source(config, digits).draw(torch.arange(1797), (0, 0, 0)).x
    assert written == [first, third]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert f"{third} is damaged" in " ".join(capsys.readouterr().err.split())
    source(config, digits)
    assert written == [first, third]


def test_full_disk_is_told_and_what_is_encoded_stays(
    configure: Configure, digits: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = cache.write_bytes

    def full(path: Path, data: bytes) -> None:
        if path.name == "shard-00001.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(cache, "write_bytes", full)
    with pytest.raises(InputError, match=r"need room in .*No space left.*what is encoded is kept"):
        source(configure(cache_latents=True), digits)
    assert [path.name for path in shards(tmp_path)] == ["shard-00000.safetensors"]
    monkeypatch.setattr(cache, "write_bytes", write)
    source(configure(cache_latents=True), digits)
    assert len(shards(tmp_path)) == 3


def test_other_data_have_another_cache(configure: Configure, digits: Images, tmp_path: Path) -> None:
    source(configure(cache_latents=True), digits)
    source(configure(cache_latents=True, caption_template="a {}"), digits)
    assert len(list(tmp_path.glob("cache/latents/*"))) == 2


def test_random_crops_cannot_be_cached(configure: Configure) -> None:
    with pytest.raises(InputError, match="--cache-latents needs --shift 0"):
        configure(cache_latents=True, shift=2)
