from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from immiscible.cli import main

TRAIN = (
    "train flow --data digits --steps 12 --batch-size 32 --width 32 --depth 1 --checkpoint-every 6 --no-tensorboard "
    "--device cpu"
).split()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main([*TRAIN, "--conditional", "--out", str(out)]) == 0
    return out


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def error_of(capsys: pytest.CaptureFixture[str], words: list[str], status: int = 2) -> str:
    """The one line that a command that must fail says."""
    capsys.readouterr()
    assert main(words) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["fly"],
            "unknown command 'fly': one of train, compare, make-tiny-sd, sample, inpaint, evaluate, export, describe",
        ),
        (["train", "fast"], "unknown command 'train fast': one of train flow, train ddim, train consistency"),
        (["train", "flow"], "--out"),
        ([*TRAIN, "--out", "x", "--steps", "many"], "--steps must be a whole number, got 'many'"),
        ([*TRAIN, "--out", "x", "--stpes", "3"], "--stpes"),
        ([*TRAIN, "--out", "x", "--steps", "0"], "--steps must be positive, got 0"),
        ([*TRAIN, "--out", "x", "--coupling", "knn"], "unknown coupling 'knn': allowed are independent, knn:K"),
        ([*TRAIN, "--out", "x", "--data", "nowhere"], "nowhere"),
        ([*TRAIN, "--out", "x", "--accumulation", "5"], "--batch-size must be a multiple of --accumulation"),
        ([*TRAIN, "--out", "x", "--mixed-precision", "fp16"], "--mixed-precision must be no or bf16 on the CPU"),
        (["sample", "nowhere", "--out", "x.png"], "must be a run directory with a config.json"),
        (["evaluate", "nowhere"], "must be a run directory with a config.json"),
        (["describe", "best"], "unknown coupling 'best'"),
        (["compare", "flow", "--couplings", "knn:4,knn:4", "--out", "x"], "--couplings must be different"),
        (["compare", "flow", "--seeds", "a", "--out", "x"], "--seeds must be whole numbers"),
        (["compare", "flow", "--nfe", "fast", "--out", "x"], "--nfe must list whole numbers or adaptive"),
        (["compare", "flow", "--evaluations", "0", "--out", "x"], "--evaluations must be from 1"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in error_of(capsys, words)
    assert list(tmp_path.iterdir()) == []


def test_run_directory_holds_what_is_promised(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert (config["coupling"], config["seed"], config["network"]) == ("assignment", 0, "mlp")
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["step"] == 12
    assert all(line["loss"] > 0 for line in metrics)
    for step in (6, 12):
        for name in ("model", "ema"):
            assert (run / f"checkpoints/step-{step}/{name}.safetensors").exists()
        assert opened(run / f"samples/step-{step}.png").size[0] > 100
    assert json.loads((run / "summary.json").read_text())["steps"] == 12
    assert not list(run.rglob("*.pt")) + list(run.rglob("*.pkl")) + list(run.rglob("*.part"))


def test_samples_as_grid_archive_and_directory_are_the_same_images(run: Path, tmp_path: Path) -> None:
    base = ["sample", str(run), "--num", "4", "--nfe", "3", "--device", "cpu"]
    for name in ("grid.png", "some.npz", "folder"):
        assert main([*base, "--out", str(tmp_path / name)]) == 0
    with np.load(tmp_path / "some.npz", allow_pickle=False) as archive:
        images, labels = archive["images"], archive["labels"]
    assert images.shape == (4, 8, 8, 1)
    assert images.dtype == np.uint8
    assert labels.tolist() == [0, 1, 2, 3]
    files = sorted((tmp_path / "folder").iterdir())
    singles = np.stack([np.asarray(opened(file)) for file in files])
    np.testing.assert_array_equal(singles[..., None].repeat(6, 1).repeat(6, 2)[:, ::6, ::6], images)
    grid = np.asarray(opened(tmp_path / "grid.png"))
    np.testing.assert_array_equal(grid[1:49:6, 1:49:6], images[0, :, :, 0])


def test_more_samples_begin_with_the_same_images(run: Path, tmp_path: Path) -> None:
    for number in (3, 7):
        assert (
            main(["sample", str(run), "--num", str(number), "--nfe", "2", "--out", str(tmp_path / f"{number}.npz")])
            == 0
        )
    few, many = (np.load(tmp_path / f"{number}.npz", allow_pickle=False)["images"] for number in (3, 7))
    np.testing.assert_allclose(few.astype(int), many[:3].astype(int), atol=1)


def test_chosen_classes_are_drawn(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.npz"
    assert main(["sample", str(run), "--num", "3", "--classes", "7,2", "--guidance", "2", "--out", str(out)]) == 0
    assert np.load(out, allow_pickle=False)["labels"].tolist() == [7, 2, 7]
    said = error_of(capsys, ["sample", str(run), "--classes", "10", "--out", str(tmp_path / "y.npz")])
    assert "--classes must be numbers below 10" in said


def test_nothing_on_disk_is_replaced_unasked(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "grid.png"
    out.write_text("precious")
    words = ["sample", str(run), "--num", "1", "--nfe", "1", "--out", str(out)]
    assert "--out must not exist yet" in error_of(capsys, words)
    assert out.read_text() == "precious"
    assert main([*words, "--overwrite"]) == 0
    assert opened(out).size == (50, 50)


def test_missing_step_and_damage_are_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sample", str(run), "--out", str(tmp_path / "x.png")]
    assert "must hold a checkpoint of step 7, got steps: 6, 12" in error_of(capsys, [*words, "--step", "7"])


def test_evaluate_prints_scores_and_keeps_them(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(run), "--nfe", "1,2,adaptive", "--num", "64", "--features", "pixels", "--json"]
    capsys.readouterr()
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["nfe"] for row in rows] == ["1", "2", "adaptive"]
    assert [row["calls"] for row in rows[:2]] == [1, 2]
    assert rows[2]["calls"] > 6
    for row in rows:
        assert row["fid"] > 0
        assert 0 <= row["precision"] <= 1
        assert "pixels" in row["features"]
    kept = json.loads((run / "evaluation.json").read_text())["scores"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == kept == rows


def test_evaluate_names_the_features_in_its_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--nfe", "1", "--num", "64", "--features", "pixels"]) == 0
    assert "pixels" in capsys.readouterr().out


def test_dry_run_prints_the_resolved_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    capsys.readouterr()
    assert main([*TRAIN, "--coupling", "knn:8:l2", "--out", str(tmp_path / "x"), "--dry-run"]) == 0
    resolved = json.loads(capsys.readouterr().out)
    assert (resolved["coupling"], resolved["network"]) == ("knn:8", "mlp")
    assert list(tmp_path.iterdir()) == []


def test_describe_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["describe", "knn:8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["marginal"].startswith("biased")


def test_own_images_train(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", images=rng.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8))
    words = [*TRAIN, "--data", str(tmp_path / "own.npz"), "--network", "unet", "--width", "8", "--steps", "2"]
    assert main([*words, "--out", str(tmp_path / "run"), "--accumulation", "2", "--mixed-precision", "bf16"]) == 0
    assert opened(tmp_path / "run/samples/step-2.png").mode == "RGB"


def test_reader_that_goes_away_leaves_no_traceback() -> None:
    words = [sys.executable, "-u", "-m", "immiscible.cli", "--help"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    told = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), told) == (141, "")
