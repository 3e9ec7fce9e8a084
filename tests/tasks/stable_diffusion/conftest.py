from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from immiscible.config.recipes import StableDiffusionConfig, TinyPipeline
from immiscible.data import Images, load
from immiscible.tasks.stable_diffusion.tiny import make_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline for digits of 16 x 16 pixels whose VAE has hardly learnt."""
    out = tmp_path_factory.mktemp("tiny") / "pipeline"
    make_tiny(TinyPipeline(out=out, data="digits", image_size=16, steps=20, width=8, vae_width=8))
    return out


@pytest.fixture(scope="session")
def digits() -> Images:
    return load("digits", image_size=16).in_colour()


@pytest.fixture
def broken(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the pipeline, to be damaged."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


@pytest.fixture
def configure(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StableDiffusionConfig]:
    """Configurations of short runs on the tiny pipeline, with a cache of their own."""
    monkeypatch.setenv("IMMISCIBLE_CACHE", str(tmp_path / "cache"))
    basis = StableDiffusionConfig(
        model=str(tiny),
        mode="scratch",
        data="digits",
        out=tmp_path / "run",
        coupling="knn:8",
        steps=4,
        batch_size=8,
        checkpoint_every=2,
        log_every=1,
        sample_every=4,
        tensorboard=False,
        device="cpu",
        warmup=1,
    )

    def changed(**values: Any) -> StableDiffusionConfig:
        return dataclasses.replace(basis, **values)

    return changed
