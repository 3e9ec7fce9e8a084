from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from immiscible.cli import main
from immiscible.couplings import parse_coupling

ADVISE = "advise --samples 300 --device cpu --batch-size 64".split()


def printed(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    capsys.readouterr()
    assert main([*ADVISE, *words]) == 0
    return capsys.readouterr().out


def test_a_recommendation_with_its_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(capsys, ["--data", "digits"])
    assert said.startswith("assignment@0.5\n")
    for word in ("for", "because", "measured", "costs", "watch", "see", "use"):
        assert f"\n  {word} " in said
    train = "immiscible train flow --data digits --coupling assignment@0.5"
    assert said.endswith(f"{train} --batch-size 64 --cost-space centered --out RUN\n")


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    advice = json.loads(printed(capsys, ["--data", "digits", "--conditional", "--nfe", "5", "--json"]))
    assert (advice["condition"], advice["coupling"], advice["within_classes"]) == ("classes", "assignment", True)
    assert parse_coupling(advice["coupling"])
    assert advice["use"].endswith("--pool 128 --conditional --out RUN")
    assert advice["evidence"] == ["stable-diffusion"]


def test_the_pages_of_results_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    from immiscible.analysis.advice import RULE

    results = Path(__file__).parents[2] / "docs" / "results"
    assert all((results / f"{page}.md").is_file() for row in RULE for page in row.evidence)


def test_action_chunks_with_observations(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    observations = draws.normal(size=(300, 3)).astype(np.float32)
    actions = (observations @ draws.normal(size=(3, 16)) * 2).astype(np.float32).reshape(300, 8, 2)
    np.savez(tmp_path / "chunks.npz", actions=actions)
    np.save(tmp_path / "observations.npy", observations)
    words = ["--data", str(tmp_path / "chunks.npz")]
    said = printed(capsys, [*words, "--observations", str(tmp_path / "observations.npy")])
    assert said.startswith("independent\n")
    assert "R² = " in said
    alone = printed(capsys, [*words, "--batch-size", "1", "--nfe", "3"])
    assert alone.startswith("knn:4\n")
    assert 'use       noise = immiscible.coupling("knn:4")(x - mean, noise)' in alone


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nfe", "few"], "--nfe must be whole numbers such as 5,50"),
        (["--budget-ms", "-1"], "--budget-ms must be zero or more"),
        (["--system", "fast"], "fast"),
        (["--data", "nowhere"], "nowhere"),
        (["--cost-space", "pca:90"], "the cost space pca:N"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gets_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ADVISE, *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err.splitlines()[-1]


def test_conditions_must_be_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((20, 4), np.float32))
    assert main([*ADVISE, "--data", str(tmp_path / "x.npy"), "--conditional"]) == 2
    assert "--conditional needs labels, observations or captions" in capsys.readouterr().err
