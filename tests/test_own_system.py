"""A system of somebody else's: one module, one row. It is trained, sampled, compared and scored by the command line."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from immiscible.cli import main
from immiscible.cli.arguments import compare_flags
from immiscible.config import systems
from immiscible.config.comparison import comparison_of
from immiscible.config.groups import ImageConfig
from immiscible.config.metric import Metric
from immiscible.config.systems import SYSTEMS, Paper, System, register
from immiscible.config.values import Range
from immiscible.errors import InputError
from immiscible.evaluation.kept import Question, answer
from immiscible.io.png import encode_grid
from immiscible.runs.open import Run
from immiscible.samplers import Samples, Start
from immiscible.tasks.base import Facts, PixelTask
from immiscible.training.task import Batch


@dataclass(frozen=True, kw_only=True)
class ToyConfig(ImageConfig):
    """One-step denoising: a linear map from noise to data."""

    task: ClassVar[str] = "toy"

    sharpness: Annotated[float, Range(0.0, 10.0)] = 1.0
    """Factor of the network's output."""


@dataclass(frozen=True)
class Leap:
    """A sampler of one network call a leap."""

    name: str
    leaps: int

    def __str__(self) -> str:
        return str(self.leaps)


class Toy(PixelTask):
    """Regresses the data on its noise, with a network, a loss and a sampler of its own."""

    config: ToyConfig

    @staticmethod
    def build(config: ToyConfig, facts: Facts) -> Toy:
        size = facts.shape[0] * facts.shape[1] * facts.shape[2]
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            network = nn.Sequential(nn.Flatten(), nn.Linear(size, size), nn.Unflatten(1, facts.shape))
        return Toy(config, network, facts.shape, facts.classes)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        return (self.config.sharpness * network(batch.noise) - batch.x).square().mean()

    def sample(self, network: nn.Module, start: Start, sampler: Any, guidance: float = 1.0) -> Samples:
        with torch.no_grad():
            x = start.noise
            for _ in range(sampler.leaps):
                x = self.config.sharpness * network(x)
        return Samples(x.clamp(-1, 1), sampler.leaps)

    def preview(self, network: nn.Module) -> Tensor:
        return self.sample(network, self.start(4, self.config.seed), Leap("leap", 1)).images


ROW = System(
    name="toy",
    title="a toy",
    runs="toys",
    summary="Train a toy.",
    config=f"{__name__}:ToyConfig",
    task=f"{__name__}:Toy",
    sampler=f"{__name__}:Leap",
    methods=("leap",),
    nfe="1,2",
    presets=f"{__name__}:PRESETS",
    paper=Paper("Toys", "0000.00000"),
)


@dataclass(frozen=True)
class ByBrightness:
    """Scores a toy by how bright its samples are."""

    samples: int
    features = ""
    metrics = (Metric("brightness", "Brightness", "higher"),)
    doubts = None

    @classmethod
    def of(cls, asked: Any, data: Any, device: torch.device) -> ByBrightness:
        return cls(asked.samples or 5)

    def score(self, run: Run, samplers: Any, guidance: float = 1.0, noise_scale: float = 1.0) -> list[dict[str, Any]]:
        def measure(sampler: Any) -> dict[str, Any]:
            drawn = run.sample(run.start(self.samples, 0, noise_scale), sampler)
            return {"calls": drawn.nfe, "brightness": drawn.images.mean().item()}

        def score(sampler: Any) -> dict[str, Any]:
            question = Question(run.step, str(sampler), sampler.name, guidance, self.samples, 0, "", noise_scale)
            return answer(run, question, partial(measure, sampler), self.metrics)

        return list(map(score, samplers))

    def picture(self, run: Run, sampler: Any, noise_scale: float = 1.0) -> bytes:
        return encode_grid(run.sample(run.start(4, 0, noise_scale), sampler).images)


BRIGHT = dataclasses.replace(
    ROW,
    scorer=f"{__name__}:ByBrightness",
    scored="glances",
)
PRESETS = {"sharp": {"sharpness": 2.0, "steps": 3}}
SMALL = ["--data", "digits", "--batch-size", "16", "--device", "cpu"]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The tests' modules are not in packages; what a row names must be found by its name.
    monkeypatch.setitem(sys.modules, __name__, sys.modules[ToyConfig.__module__])
    register(ROW)
    yield
    del SYSTEMS["toy"]
    comparison_of.cache_clear()
    compare_flags.cache_clear()


def test_system_in_one_module_is_trained_sampled_scored_and_compared(
    toy: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    trained = ["train", "toy", "--preset", "sharp", *SMALL, "--coupling", "knn:4", "--no-tensorboard", "--out", run]
    assert main(trained) == 0
    said = capsys.readouterr().err
    assert "a toy on" in said
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["task"], config["sharpness"], config["steps"]) == ("toy", 2.0, 3)
    assert (tmp_path / "run/samples/step-3.png").exists()
    assert main(trained) == 0
    assert main(["sample", run, "--num", "4", "--device", "cpu", "--out", str(tmp_path / "grid.png")]) == 0
    assert main(["evaluate", run, "--num", "8", "--device", "cpu", "--features", "pixels", "--json"]) == 0
    scored = capsys.readouterr().out
    assert '"sampler": "leap"' in scored
    compared = ["compare", "toy", *SMALL, "--steps", "2", "--evaluations", "1", "--seeds", "0", "--samples", "8"]
    contenders = ["--couplings", "independent,knn:4[sharpness=3]", "--features", "pixels"]
    assert main([*compared, *contenders, "--out", str(tmp_path / "compared")]) == 0
    assert "<title>A toy on " in (tmp_path / "compared/report.html").read_text()
    summary = json.loads((tmp_path / "compared/summary.json").read_text())
    assert list(summary["couplings"]) == ["independent", "knn:4[sharpness=3.0]"]
    assert summary["nfes"] == ["1", "2"]


def test_system_that_is_scored_by_what_is_its_own(
    toy: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SYSTEMS, "toy", BRIGHT)
    comparison_of.cache_clear()
    compare_flags.cache_clear()
    run = str(tmp_path / "run")
    assert main(["train", "toy", *SMALL, "--steps", "2", "--no-tensorboard", "--out", run]) == 0
    capsys.readouterr()
    for _ in range(2):
        assert main(["evaluate", run, "--device", "cpu", "--nfe", "1", "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert (row["samples"], row["calls"], "fid" in row) == (5, 1, False)
    assert json.loads((tmp_path / "run/evaluation.json").read_text())["scores"] == [row]
    assert main(["evaluate", run, "--device", "cpu"]) == 0
    assert "brightness" in capsys.readouterr().out
    assert main(["evaluate", run, "--num", "7"]) == 2
    assert "--num must be left out for toys" in capsys.readouterr().err
    compared = ["compare", "toy", *SMALL, "--steps", "2", "--evaluations", "1", "--seeds", "0", "--samples", "3"]
    assert main([*compared, "--couplings", "independent,knn:4", "--out", str(tmp_path / "compared")]) == 0
    summary = json.loads((tmp_path / "compared/summary.json").read_text())
    assert summary["metrics"][0]["name"] == "brightness"
    assert (summary["samples_per_score"], summary["features"]) == (3, "")
    assert "Brightness" in (tmp_path / "compared/report.html").read_text()
    assert main([*compared, "--features", "pixels"]) == 2
    assert "unknown flag --features" in capsys.readouterr().err


def test_its_flags_are_checked_and_listed_like_any_other(toy: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 0
    assert "train toy" in capsys.readouterr().out
    for words, told in [
        (["train", "toy", "--sharpness", "11", "--out", "x"], "--sharpness must be at most 10"),
        (["compare", "toy", "--sampler", "euler"], "--sampler must be one of auto, leap"),
        (["compare", "toy", "--seed", "1"], "unknown flag --seed"),
        (["train", "toy", "--preset", "blunt", "--out", "x"], "--preset must be one of sharp for toy"),
    ]:
        assert main(words) == 2
        assert told in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["compare", "toy", "--help"])
    assert "Factor of the network's output." in capsys.readouterr().out


def test_name_that_is_taken_is_refused(toy: None) -> None:
    assert register(ROW) is ROW
    with pytest.raises(InputError, match="must have a name of its own, got 'flow'"):
        register(System(**{**vars(ROW), "name": "flow"}))


OFFERED = """
from immiscible.config.systems import System
ROW = System("toy", "a toy", "toys", "Train a toy of a distribution.", "toys:C", "toys:T", "toys:S", ("leap",), "1")
"""


def test_system_that_a_distribution_offers_is_found(tmp_path: Path) -> None:
    (tmp_path / "toys.py").write_text(OFFERED)
    offered = tmp_path / "toys-1.dist-info"
    offered.mkdir()
    (offered / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1\n")
    (offered / "entry_points.txt").write_text(f"[{systems.GROUP}]\ntoy = toys:ROW\n")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from immiscible.cli import main; main(['train'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "train toy" in done.stdout, done.stderr
    assert "Train a toy of a distribution." in done.stdout


def test_system_without_paths_is_analyzed_and_what_needs_them_is_named(toy: None, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    assert main(["train", "toy", *SMALL, "--steps", "2", "--no-tensorboard", "--out", run]) == 0
    few = ["--num", "24", "--starts", "4", "--features", "pixels", "--device", "cpu"]
    assert main(["analyze", "run", run, *few, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/analysis.json").read_text())["runs"]["run"]
    assert list(found["measurements"]) == ["perturbation", "transport", "memorisation"]
    assert found["left_out"] == dict.fromkeys(("steps", "straightness"), "a toy has no paths that could be followed")
