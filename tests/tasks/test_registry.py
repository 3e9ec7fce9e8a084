"""Data and models are found from whatever directory a run is opened in."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from immiscible.cli import main
from immiscible.config.recipes import FlowConfig, StableDiffusionConfig
from immiscible.runs.open import load_run
from immiscible.seeds import derive
from immiscible.tasks.registry import place_of, placed, places_of

FLAGS = (
    "--coupling independent --steps 2 --batch-size 16 --width 8 --depth 1 --no-tensorboard --device cpu --out run"
).split()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "here"
    (home / "folder").mkdir(parents=True)
    (home / "data.npy").touch()
    monkeypatch.chdir(home)
    return home


def test_paths_become_absolute_and_names_stay(here: Path) -> None:
    (here / "digits").mkdir()
    assert place_of("data.npy") == str(here / "data.npy")
    assert place_of("./digits") == str(here / "digits")
    assert place_of("folder@part") == str(here / "folder@part")
    assert place_of("hf:folder") == f"hf:{here}/folder"
    assert place_of("stream:hf:folder") == f"stream:hf:{here}/folder"
    assert place_of("stream:folder/{00..09}.tar::folder/x.tar") == (
        f"stream:{here}/folder/{{00..09}}.tar::{here}/folder/x.tar"
    )
    for name in ("digits", "cifar10", "hf:someone/images", "nowhere", "stream:hf:someone/images", "/nowhere/x.npy"):
        assert place_of(name) == name
    for address in ("stream:https://host/x-{0..9}.tar", "stream:pipe:cat x.tar"):
        assert place_of(address) == address


def test_what_is_gone_is_looked_for_as_it_is_spelt(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = StableDiffusionConfig(out=Path("run"), model="folder", data="data.npy")
    places = places_of(config)
    assert places == {"data": str(here / "data.npy"), "model": str(here / "folder")}
    monkeypatch.chdir(tmp_path)
    found = placed(config, places)
    assert (found.data, found.model) == (places["data"], places["model"])
    (here / "data.npy").unlink()
    assert placed(config, places).data == "data.npy"
    assert places_of(FlowConfig(out=Path("run"), data="digits")) == {"data": "digits"}
    on_hub = dataclasses.replace(config, model="someone/model", data="digits")
    assert placed(on_hub, places_of(on_hub)) == on_hub


def test_run_is_evaluated_from_another_directory(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("data.npy", np.random.default_rng(0).integers(0, 255, (40, 8, 8), np.uint8))
    assert main(["train", "flow", "--data", "data.npy", *FLAGS]) == 0
    assert json.loads(Path("run/config.json").read_text())["data"] == "data.npy"
    monkeypatch.chdir(tmp_path)
    assert len(load_run(here / "run").data()) == 40
    # The command that reproduces it is the one that was given.
    assert load_run(here / "run").config.data == "data.npy"
    # Older runs do not say where it was.
    path = here / "run/config.json"
    saved = json.loads(path.read_text())
    del saved["places"]
    path.write_text(json.dumps(saved))
    capsys.readouterr()
    assert main(["evaluate", str(here / "run"), "--num", "8", "--device", "cpu"]) == 2
    assert "data.npy" in capsys.readouterr().err
    monkeypatch.chdir(here)
    assert main(["train", "flow", "--data", "data.npy", *FLAGS]) == 0


def test_run_of_an_earlier_version_samples_as_it_did_and_is_not_gone_on_with(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "flow", "--data", "digits", *FLAGS]
    assert main(words) == 0
    new = load_run(here / "run")
    path = here / "run/config.json"
    saved = json.loads(path.read_text())
    assert saved.pop("seed_bits") == 63
    path.write_text(json.dumps({**saved, "version": "0.1.0"}))
    old = load_run(here / "run")
    drawn = torch.randn(old.shape, generator=torch.Generator().manual_seed(derive(7, "sample", 2)))
    start = old.start(3, 7)
    torch.testing.assert_close(start.noise[2], drawn, rtol=0, atol=0)
    ways = torch.Generator().manual_seed(derive(7, "sample-step", 2))
    torch.testing.assert_close(torch.rand(3, generator=start.generators()[2]), torch.rand(3, generator=ways))
    assert not torch.equal(new.start(3, 7).noise[2], drawn)
    # It is finished, and its summary is written again if it was lost.
    assert main(words) == 0
    shutil.rmtree(here / "run/checkpoints/step-2")
    (here / "run/checkpoints/step-1").mkdir()
    capsys.readouterr()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "got one of version 0.1.0, whose data and noise would be others from here on" in line
