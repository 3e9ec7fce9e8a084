"""A run keeps the law of its noise, and its samples start from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import immiscible
from immiscible.cli import main
from immiscible.config.recipes import DDIMConfig, FlowConfig, PolicyConfig, StableDiffusionConfig
from immiscible.couplings.source import LowRankMixture, Normal
from immiscible.data import load
from immiscible.errors import InputError
from immiscible.runs.cost_space import Ranking
from immiscible.runs.noise_law import noise_gap, noise_law
from immiscible.runs.open import Run, load_run
from immiscible.runs.source import SOURCE, check_informed
from immiscible.samplers import Solver
from immiscible.tasks.base import PREVIEW

WORDS = "--data digits --steps 4 --batch-size 16 --width 16 --depth 1 --checkpoint-every 2 --no-tensorboard".split()


def flags(system: str, out: Path, *extra: str) -> list[str]:
    return ["train", system, *WORDS, "--device", "cpu", "--coupling", "mixture:3:4", *extra, "--out", str(out)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional run with an informed coupling."""
    out = tmp_path_factory.mktemp("source") / "run"
    assert main(flags("flow", out, "--conditional")) == 0
    return out


def beside(law: LowRankMixture, noise: torch.Tensor) -> torch.Tensor:
    """The part of noise that is not along the components."""
    flat = noise.flatten(1)
    return flat - flat @ law.basis.T @ law.basis


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    return said[0]


def test_run_says_where_samples_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags("flow", tmp_path / "run")) == 0
    said = capsys.readouterr().err
    assert "samples start from a mixture of 3 Gaussians along 4 components, not from N(0, I)." in said
    assert "the source has the law of the noise: their distributions are at most 0.0" in said
    assert "the noise law" not in said


def test_samples_start_from_the_law_that_is_kept(run: Path) -> None:
    law, opened = immiscible.source(run), load_run(run)
    assert isinstance(law, LowRankMixture)
    start = opened.start(600, seed=5)
    assert start.labels is not None
    expected = law.sample((600, 1, 8, 8), labels=start.labels, generator=torch.Generator().manual_seed(0))
    along, wanted = (noise.flatten(1) @ law.basis.T for noise in (start.noise, expected))
    torch.testing.assert_close(along.T.cov(), wanted.T.cov(), rtol=0, atol=0.25)
    # Sample i depends on the seed and on i only, and is paired with that of any other run.
    torch.testing.assert_close(opened.start(3, seed=5, first=7).noise, start.noise[7:10], rtol=0, atol=1e-6)
    plain = dataclasses.replace(opened, task=opened.task.starting(Normal())).start(600, seed=5)
    torch.testing.assert_close(beside(law, start.noise), beside(law, plain.noise), rtol=0, atol=1e-5)
    assert not start.noise.allclose(plain.noise)


def test_start_of_a_class_has_the_law_of_that_class(run: Path) -> None:
    law, opened = immiscible.source(run), load_run(run)
    assert isinstance(law, LowRankMixture)
    start = opened.start(400, seed=5, labels=torch.full((400,), 3))
    kind = int((law.mixture.classes == 3).nonzero())
    mean = (law.mixture.weights[kind, :, None] * law.mixture.means[kind]).sum(0)
    torch.testing.assert_close((start.noise.flatten(1) @ law.basis.T).mean(0), mean, rtol=0, atol=0.2)


def test_previews_start_from_it(run: Path) -> None:
    task: Any = load_run(run).task
    start = task.start(PREVIEW, task.config.seed)
    expected = task.sample(task.network, start, Solver("euler", 20)).images
    torch.testing.assert_close(task.preview(task.network), expected, rtol=0, atol=0)
    assert str(start.law).startswith("a mixture of 3 Gaussians of each class")


@pytest.mark.slow
def test_training_draws_its_previews_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from immiscible.runs import train

    laws, loop = [], train.Loop

    def watched(config: Any, task: Any, *others: Any) -> Any:
        laws.append(str(task.law))
        return loop(config, task, *others)

    monkeypatch.setattr(train, "Loop", watched)
    for spelling in ("mixture:3:4", "knn:2"):
        assert main([*flags("flow", tmp_path / spelling[:3], "--coupling", spelling, "--steps", "1")]) == 0
    assert laws == ["a mixture of 3 Gaussians along 4 components", "N(0, I)"]


@pytest.mark.slow
def test_run_goes_on_with_the_law_that_it_began_with(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(flags("flow", whole)) == 0
    assert main(flags("flow", cut, "--steps", "2")) == 0
    kept = load_file(cut / SOURCE)
    kept["means"] += 1
    save_file(kept, cut / SOURCE)
    assert main(flags("flow", cut, "--extend")) == 0
    torch.testing.assert_close(load_file(cut / SOURCE), kept, rtol=0, atol=0)
    # What trains is the fitted coupling, to which nothing happened.
    weights = [load_file(path / "checkpoints" / "step-4" / "ema.safetensors") for path in (whole, cut)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)


@pytest.mark.parametrize("harm", ["missing", "cut", "another"])
def test_run_without_its_law_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    data = (run / SOURCE).read_bytes()
    try:
        (run / SOURCE).unlink()
        if harm == "cut":
            (run / SOURCE).write_bytes(data[:100])
        if harm == "another":
            save_file({"basis": torch.ones(2)}, run / SOURCE)
        sample = ["sample", str(run), "--num", "4", "--nfe", "2", "--out", str(tmp_path / "samples.png")]
        for words in (sample, flags("flow", run, "--conditional", "--steps", "6", "--extend")):
            said = refused(words, capsys)
            assert "source.safetensors must hold the law of the noise that the run was trained on, got: " in said
    finally:
        (run / SOURCE).write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "fresh", "able"),
    [
        ("ddim", ["--sampler", "ddpm", "--nfe", "2"], ["--nfe", "2"]),
        ("ddim", ["--eta", "0.5", "--nfe", "2"], []),
        ("consistency", ["--nfe", "2"], ["--nfe", "1"]),
    ],
)
def test_samplers_with_fresh_noise_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], system: str, fresh: list[str], able: list[str]
) -> None:
    out = tmp_path / "run"
    assert main(flags(system, out)) == 0
    sample = ["sample", str(out), "--num", "4", "--device", "cpu", "--out", str(tmp_path / "samples.png")]
    assert "components need a sampler without fresh noise, got " in refused([*sample, *fresh], capsys)
    if able:
        assert main([*sample, *able]) == 0


def config(kind: type[Any] = FlowConfig, **values: Any) -> Any:
    return kind(out=Path("run"), **{"coupling": "components:4", **values})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (config(PolicyConfig), "must be left to data without conditions and to classes, got"),
        (config(StableDiffusionConfig, model="tiny"), "must be left to data without conditions and to classes, got"),
        (config(coupling_stop=9), "--coupling-stop must be 0 with components:4, got 9"),
        (
            config(conditional=True, across_classes=True),
            "--across-classes is for assignments, got it with",
        ),
    ],
)
def test_what_informed_couplings_cannot_do_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_informed(given)


def test_what_they_can_is_not() -> None:
    for given in (config(), config(DDIMConfig, conditional=True), config(coupling="knn:4", coupling_stop=9)):
        check_informed(given)


def ranking(spelling: str, **values: Any) -> Ranking:
    return Ranking.fit(config(coupling=spelling, **values), load("digits"), grouped=values.get("conditional", False))


def test_law_of_other_couplings_is_normal_or_induced() -> None:
    assert noise_law(ranking("assignment"), 256, False, False) == Normal()
    law = noise_law(ranking("knn:4"), 256, False, True)
    assert isinstance(law, LowRankMixture)
    assert law.mixture.classes.tolist() == list(range(10))
    # The published rule shrinks all of the noise.
    assert law.rest < 0.95
    assert noise_gap(ranking("knn:4"), law, 256, False) is None


def test_noise_of_mirrored_and_scaled_data_has_the_law_of_its_source() -> None:
    own = ranking("mixture:3:4", flip=True, data_scale=2.0)
    law = noise_law(own, 256, False, False)
    gap = noise_gap(own, law, 256, False)
    assert gap is not None
    assert gap.warning() is None


@pytest.mark.slow
def test_knn_runs_keep_their_law_and_start_from_normal_noise(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(flags("flow", out, "--coupling", "knn:4")) == 0
    assert isinstance(immiscible.source(out), LowRankMixture)
    opened = load_run(out)
    assert opened.task.law == Normal()
    # The published practice starts from normal noise; on request samples start from the law that KNN gave the noise.
    assert opened.under("source").start(400, seed=1).noise.square().mean() < 0.95
    # Runs of earlier versions have no law, and go on.
    (out / SOURCE).unlink()
    assert main(flags("flow", out, "--coupling", "knn:4", "--steps", "6", "--extend")) == 0
    assert (out / SOURCE).exists()


@pytest.mark.slow
def test_exact_runs_have_no_file(tmp_path: Path) -> None:
    assert main(flags("flow", tmp_path / "run", "--coupling", "independent")) == 0
    assert immiscible.source(tmp_path / "run") == Normal()
    assert not (tmp_path / "run" / SOURCE).exists()


def test_weights_alone_start_from_the_same_law(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), str(tmp_path / "small"), "--weights-only"]) == 0
    one, other = (load_run(path) for path in (run, tmp_path / "small"))
    torch.testing.assert_close(one.start(4, seed=1).noise, other.start(4, seed=1).noise, rtol=0, atol=0)
    assert isinstance(one, Run)


def test_runs_can_start_from_another_law_and_say_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = load_run(run)
    assert opened.under("auto") is opened
    capsys.readouterr()
    normal = opened.under("normal")
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "was trained on noise with another law than N(0, I), which its samples start from now" in said[0]
    assert (normal.law, normal.task.law) == ("normal", Normal())
    back = normal.under("source")
    torch.testing.assert_close(back.start(5, seed=1).noise, opened.start(5, seed=1).noise, rtol=0, atol=0)
    assert capsys.readouterr().err == ""


def test_comparison_refuses_samplers_with_fresh_noise_before_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "compare consistency --data digits --steps 400 --batch-size 16 --device cpu --nfe 1,2 --couplings".split()
    said = refused([*words, "independent,mixture:3:4", "--out", str(tmp_path / "all")], capsys)
    assert "samples that start from the source of mixture:3:4 need a sampler without fresh noise" in said
    assert not (tmp_path / "all").exists()


def test_directory_of_samples_is_continued_from_the_same_law_only(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = ["sample", str(run), "--num", "3", "--nfe", "2", "--device", "cpu", "--out", str(tmp_path / "images")]
    assert main([*sample, "--start", "normal"]) == 0
    assert "was trained on noise with another law than N(0, I)" in capsys.readouterr().err
    assert main(sample) == 2
