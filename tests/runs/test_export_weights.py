"""Averaged weights written alone: a small directory that samples like the run it is of, and cannot be trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from immiscible.cli import main
from immiscible.runs.open import load_run
from immiscible.samplers import Solver

FLOW = (
    "train flow --data digits --network mlp --width 8 --depth 1 --steps 4 --batch-size 16 --ema 0.5 --no-tensorboard "
    "--device cpu"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("flow") / "run"
    assert main([*FLOW.split(), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def shared(run: Path) -> Path:
    out = run.with_name("shared")
    assert main(["export", str(run), str(out), "--weights-only"]) == 0
    return out


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_it_holds_the_average_in_half_of_the_bytes_and_a_card(run: Path, shared: Path) -> None:
    step = "checkpoints/step-4"
    assert files(shared) == ["README.md", f"{step}/ema.safetensors", f"{step}/state.json", "config.json"]
    weights = (folder / step / "ema.safetensors" for folder in (shared, run))
    small, whole = (path.stat().st_size for path in weights)
    assert small < 0.6 * whole
    assert "immiscible sample DIRECTORY" in (shared / "README.md").read_text()


def test_it_samples_like_the_run(run: Path, shared: Path) -> None:
    ours, theirs = load_run(shared), load_run(run)
    assert {weight.dtype for weight in ours.network.parameters()} == {torch.float32}
    one, other = (each.sample(each.start(4, 0), Solver("euler", 5)).images for each in (ours, theirs))
    assert not one.equal(other)
    torch.testing.assert_close(one, other, atol=5e-3, rtol=0)


def test_it_says_nothing_of_the_machine(shared: Path) -> None:
    saved = json.loads((shared / "config.json").read_text())
    assert saved["places"] == {}
    assert not any(isinstance(value, str) and value.startswith("/") for value in saved.values())


def test_an_absolute_path_of_the_data_becomes_its_name(run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    saved = json.loads((run / "config.json").read_text()) | {"data": "/home/someone/secret/faces"}
    (moved / "config.json").write_text(json.dumps(saved))
    (moved / "checkpoints").symlink_to(run / "checkpoints")
    assert main(["export", str(moved), str(tmp_path / "out"), "--weights-only"]) == 0
    text = "".join((tmp_path / "out" / name).read_text() for name in ("config.json", "README.md"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["data"] == "faces"
    assert "someone" not in text


def test_training_on_it_is_refused_and_nothing_is_moved(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(shared)
    assert main([*FLOW.replace("--steps 4", "--steps 8").split(), "--extend", "--out", str(shared)]) == 2
    assert "averaged weights alone" in capsys.readouterr().err
    assert files(shared) == before


def test_a_changed_byte_is_noticed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["export", str(run), str(out), "--weights-only"]) == 0
    path = out / "checkpoints" / "step-4" / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    capsys.readouterr()
    assert main(["sample", str(out), "--out", str(tmp_path / "grid.png")]) == 2
    assert "damaged" in capsys.readouterr().err


def test_a_weight_that_float16_cannot_hold_stays_as_it_is(tmp_path: Path) -> None:
    from immiscible.training.checkpoint import load_average, write_average

    write_average(tmp_path, 3, {"large": torch.tensor([1e6]), "small": torch.tensor([0.5])})
    found = load_average(tmp_path / "step-3")
    assert found["large"].item() == 1e6
    assert found["small"].dtype == torch.float32


def test_a_sampler_is_refused_with_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), str(tmp_path / "out"), "--weights-only", "--sampler", "ddim"]) == 2
    assert "--sampler must be left out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
