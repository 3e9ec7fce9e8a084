"""Scores of a run: in parts that change nothing and that alone are in memory, on the run's device, told where few."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from immiscible.cli import main
from immiscible.data import load
from immiscible.errors import InputError
from immiscible.evaluation import Reference, features_for
from immiscible.evaluation.kept import read_rows
from immiscible.evaluation.quality import Trial, evaluate_run, sample_count
from immiscible.evaluation.scores import doubts
from immiscible.runs.model_card import score_table
from immiscible.runs.open import Run, load_run
from immiscible.samplers import parse_samplers

SMALL = "--data digits --steps 2 --batch-size 16 --width 16 --depth 1 --device cpu --no-tensorboard".split()
TASKS = {"flow": ("euler", "3"), "ddim": ("ddpm", "3"), "consistency": ("multistep", "2")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A class-conditional run of each task on pixels."""
    out = tmp_path_factory.mktemp("runs")
    for task in TASKS:
        assert main(["train", task, *SMALL, "--conditional", "--out", str(out / task)]) == 0
    return {task: out / task for task in TASKS}


@pytest.fixture(scope="module")
def digits() -> Reference:
    data = load("digits")
    return Reference(features_for(data, "pixels"), data, limit=200)


def scored(path: Path, reference: Reference, samples: int = 50) -> dict[str, Any]:
    """A row that is measured now, whatever was measured before."""
    (path / "evaluation.json").unlink(missing_ok=True)
    run = load_run(path)
    sampler, nfe = TASKS[run.config.task]
    (row,) = evaluate_run(run, reference, parse_samplers(run.config.task, nfe, sampler, 0.0), Trial(samples))
    return row


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("part", [1, 7, 50])
def test_parts_of_any_size_give_the_same_scores(
    task: str, part: int, trained: dict[str, Path], digits: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the classes in turn, and the noise that ddpm and multistep add on their way."""
    whole = scored(trained[task], digits)
    monkeypatch.setattr("immiscible.tasks.base.SAMPLE_BATCH", part)
    parts = scored(trained[task], digits)
    assert parts == {**whole, **{name: pytest.approx(whole[name], rel=1e-4) for name in ("fid", "kid")}}


class Sizes(TorchDispatchMode):
    """The largest number of images in any tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.shape[-3:] == (1, 8, 8):
                self.largest = max(self.largest, tensor.numel() // 64)
        return made


@pytest.mark.parametrize("task", TASKS)
def test_no_tensor_ever_holds_more_images_than_a_part(
    task: str, trained: dict[str, Path], digits: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("immiscible.tasks.base.SAMPLE_BATCH", 16)
    with Sizes() as sizes:
        assert scored(trained[task], digits)["samples"] == 50
    assert sizes.largest == 16


def test_large_images_are_drawn_in_smaller_parts() -> None:
    from immiscible.tasks.base import images_at_once

    assert [images_at_once((3, side, side)) for side in (8, 64, 128, 512, 4096)] == [1024, 1024, 256, 16, 1]
    assert images_at_once((3, 64, 64), 256) == 256


def test_features_are_computed_where_the_run_is(trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no second device here, so the run says that it is on one, and the features' axes are asked for there."""
    asked = []
    to = torch.Tensor.to
    elsewhere = torch.device("cuda", 7)

    def recorded(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if elsewhere in args:
            asked.append(elsewhere)
            return tensor
        return to(tensor, *args, **kwargs)

    monkeypatch.setattr(Run, "device", property(lambda run: elsewhere))
    monkeypatch.setattr(torch.Tensor, "to", recorded)
    assert main(["evaluate", str(trained["flow"]), "--nfe", "1", "--num", "8", "--features", "pixels"]) == 0
    # The mean and the axes.
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("generated", "real", "dim", "said"),
    [
        (5, 1797, 64, ["5 generated images against 1,797 real ones", "to chance", "than features, 64", "draw more"]),
        (99, 5000, 10, ["to chance", "draw more samples"]),
        (2048, 10_000, 2048, ["than features, 2,048"]),
        (5000, 60, 64, ["60 real ones", "to chance", "than features", "against more data"]),
    ],
)
def test_few_images_are_doubted_with_the_reason(generated: int, real: int, dim: int, said: list[str]) -> None:
    text = doubts(generated, real, dim)
    assert text is not None
    assert all(words in text for words in said), text
    assert ("to chance" in text) == (min(generated, real) < 100)
    assert ("than features" in text) == (min(generated, real) <= dim)


@pytest.mark.parametrize(("generated", "real", "dim"), [(100, 100, 64), (2049, 10_000, 2048), (10_000, 60_000, 2048)])
def test_enough_images_are_not_doubted(generated: int, real: int, dim: int) -> None:
    assert doubts(generated, real, dim) is None


def test_doubts_stand_in_the_output_and_beside_the_run(
    trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = trained["flow"]
    (path / "evaluation.json").unlink(missing_ok=True)
    words = ["evaluate", str(path), "--nfe", "1", "--features", "pixels", "--num"]
    assert main([*words, "5", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["warning"].startswith("scores of 5 generated images against 1,797 real ones say little: ")
    assert read_rows(path) == [row]
    assert main([*words, "5"]) == 0
    assert "warning: scores of 5 generated images" in capsys.readouterr().out
    assert main([*words, "200"]) == 0
    assert "warning" not in capsys.readouterr().out


def test_rows_of_older_versions_are_doubted_too(trained: dict[str, Path], digits: Reference) -> None:
    path = trained["flow"]
    row = scored(path, digits, samples=5)
    (path / "evaluation.json").write_text(
        json.dumps({"scores": [{key: value for key, value in row.items() if key != "warning"}]})
    )
    (again,) = evaluate_run(load_run(path), digits, parse_samplers("flow", "3", "euler", 0.0), Trial(5))
    assert again == row


@pytest.mark.parametrize("count", [1, 3])
def test_too_few_for_any_score_are_refused_before_work(
    count: int, trained: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("immiscible.evaluation.quality.features_for", pytest.fail)
    assert main(["evaluate", str(trained["flow"]), "--nfe", "1", "--num", str(count)]) == 2
    assert f"scores need at least 4 generated images, got {count}" in capsys.readouterr().err
    with pytest.raises(InputError, match="at least 4 generated images, got 3"):
        sample_count(3, load("digits"))


@pytest.fixture
def moved(tmp_path: Path) -> tuple[Path, Path]:
    """A run, and its data in another place than where it was."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "old.npz", images=rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8))
    words = [word if word != "digits" else str(tmp_path / "old.npz") for word in SMALL]
    assert main(["train", "flow", *words, "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "run", Path(shutil.move(tmp_path / "old.npz", tmp_path / "elsewhere" / "new.npz"))


def test_data_that_moved_is_scored_against(moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run, place = moved
    words = ["evaluate", str(run), "--nfe", "1", "--num", "8", "--features", "pixels", "--json"]
    capsys.readouterr()
    assert main(words) == 2
    assert "--data" in capsys.readouterr().err
    assert main([*words, "--data", str(place)]) == 0
    assert json.loads(capsys.readouterr().out)[0]["samples"] == 8


def test_other_data_is_refused(moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = moved
    capsys.readouterr()
    assert main(["evaluate", str(run), "--nfe", "1", "--num", "8", "--data", "digits"]) == 2
    said = capsys.readouterr().err
    assert "digits must be the data that" in said
    assert said.count("\n") == 1
    assert not (run / "evaluation.json").exists()


def test_run_goes_on_with_data_that_moved(
    moved: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, place = moved
    monkeypatch.chdir(place.parent)
    words = [word if word != "digits" else place.name for word in SMALL]
    again = ["train", "flow", *words, "--out", str(run), "--steps", "3", "--extend"]
    assert main(again) == 0
    assert json.loads((run / "config.json").read_text())["data"] == place.name
    monkeypatch.chdir("/")
    # The command that scores it needs no flag from then on.
    assert main(["evaluate", str(run), "--nfe", "1", "--num", "8", "--features", "pixels"]) == 0
    other = [word if word != place.name else "digits" for word in again]
    capsys.readouterr()
    assert main(other) == 2
    assert "data_fingerprint was" in capsys.readouterr().err


def test_model_card_repeats_the_doubts(trained: dict[str, Path], digits: Reference) -> None:
    few, many = (scored(trained["flow"], digits, samples=count) for count in (5, 150))
    assert "Warning: scores of 5 generated images" in score_table([few])
    assert "Warning" not in score_table([many])
