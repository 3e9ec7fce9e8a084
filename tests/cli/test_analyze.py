from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from immiscible.analysis.study import MEASUREMENTS
from immiscible.cli import main

ANALYZE = "analyze data --data digits --samples 200 --points 16 --batch-size 64 --device cpu".split()


def printed(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    capsys.readouterr()
    assert main(words) == 0
    return capsys.readouterr().out


def error_of(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1, captured.err
    return captured.err


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("analyze") / "out"
    assert main([*ANALYZE, "--couplings", "independent,knn:8,assignment@0.5", "--out", str(out)]) == 0
    return out


def test_every_measurement_is_in_the_file_and_on_the_page(analysis: Path) -> None:
    saved = json.loads((analysis / "analysis.json").read_text())
    assert list(saved["measurements"]) == [measurement.name for measurement in MEASUREMENTS]
    for results in saved["measurements"].values():
        assert list(results) == ["independent", "knn:8", "assignment@0.5"]
    page = (analysis / "analysis.html").read_text()
    assert all(measurement.title in page for measurement in MEASUREMENTS)
    assert saved["data"] | {"name": ""} == {
        "name": "",
        "total": 1797,
        "measured": 200,
        "shape": [1, 8, 8],
        "classes": 10,
        "observations": 0,
    }


def test_the_page_is_one_file_with_light_and_dark_pictures(analysis: Path) -> None:
    page = (analysis / "analysis.html").read_text()
    assert "prefers-color-scheme: dark" in page
    assert all(part not in page for part in ('src="plots', "http://", "https://", "<script"))
    for name in ("miscibility.png", "miscibility-dark.png"):
        assert (analysis / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_the_command_on_the_page_repeats_the_analysis(analysis: Path, tmp_path: Path) -> None:
    saved = json.loads((analysis / "analysis.json").read_text())
    words = [*saved["command"].split()[1:], "--measure", "audit", "--out", str(tmp_path / "again")]
    assert main(words) == 0
    again = json.loads((tmp_path / "again" / "analysis.json").read_text())
    assert again["measurements"]["audit"] == saved["measurements"]["audit"]


def test_json_is_what_is_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [*ANALYZE, "--measure", "audit", "--couplings", "knn:4,independent", "--json", "--out", str(tmp_path / "a")]
    saved = json.loads(printed(capsys, words))
    verdicts = {name: result["passed"] for name, result in saved["measurements"]["audit"].items()}
    assert verdicts == {"knn:4": False, "independent": True}
    assert {"format": 1, **saved} == json.loads((tmp_path / "a" / "analysis.json").read_text())


def test_action_chunks_of_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    np.savez(tmp_path / "chunks.npz", actions=draws.normal(size=(150, 8, 2)), observations=draws.normal(size=(150, 3)))
    words = ["analyze", "data", "--data", str(tmp_path / "chunks.npz"), "--points", "8", "--batch-size", "32"]
    said = printed(capsys, [*words, "--out", str(tmp_path / "a"), "--measure", "miscibility"])
    assert said.splitlines()[-1] == f"see {tmp_path / 'a' / 'analysis.html'}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--couplings", "independent,independent"], "--couplings must be different"),
        (["--couplings", "best"], "unknown coupling 'best'"),
        (["--measure", "beauty"], "--measure must be some of miscibility"),
        (["--cost-space", "pca:90"], "the cost space pca:N needs N of at most"),
        (["--cost-space", "nearest"], "--cost-space must be raw"),
        (["--data", "nowhere.npy"], "nowhere.npy"),
        (["--points", "1"], "--points must be at least 2"),
        (["--observations", "nowhere.npy"], "--observations must be a .npy"),
        (["--samples", "1"], "must be at least 2 data"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gets_one_line_and_leaves_nothing(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in error_of(capsys, [*ANALYZE, *words, "--out", "a"])
    assert list(tmp_path.iterdir()) == []


def test_the_output_is_checked_before_the_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    assert "--out must be a new directory" in error_of(capsys, [*ANALYZE, "--data", "nowhere", "--out", str(tmp_path)])


def test_classes_need_labels(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((20, 4), np.float32))
    words = ["analyze", "data", "--data", str(tmp_path / "x.npy"), "--within-classes", "--out", str(tmp_path / "a")]
    assert "--within-classes needs data with labels" in error_of(capsys, words)
