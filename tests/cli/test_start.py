"""Samples and scores that start between noise and data, from a prior of the run's data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from immiscible.cli import main

pytestmark = pytest.mark.slow
RUN = "train flow --data digits --steps 2 --batch-size 32 --width 8 --depth 1 --conditional --device cpu --out"
START = ["--start", "components:4@0.5", "--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("start") / "run")
    assert main([*RUN.split(), out]) == 0
    return out


def drawn(run: str, out: Path, *flags: str) -> np.ndarray:
    assert main(["sample", run, "--num", "4", "--nfe", "3", "--device", "cpu", *flags, "--out", str(out)]) == 0
    return np.load(out)["images" if "images" in np.load(out) else np.load(out).files[0]]


def test_samples_start_from_the_prior_of_their_class(run: str, tmp_path: Path) -> None:
    """After two steps of training the samples are noise unless the start resembles the data."""
    plain = drawn(run, tmp_path / "plain.npz", "--classes", "0")
    begun = drawn(run, tmp_path / "begun.npz", "--classes", "0", *START)
    other = drawn(run, tmp_path / "other.npz", "--classes", "1", *START)
    again = drawn(run, tmp_path / "again.npz", "--classes", "0", *START)
    assert (begun == again).all()
    # The centre of a zero is dark, that of a one is bright.
    centre = np.s_[:, 3:5, 3:5]
    assert begun[centre].mean() < other[centre].mean() - 20
    assert (plain != begun).any()


def test_scores_are_kept_apart_by_their_start(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", run, "--nfe", "2", "--num", "64", "--features", "pixels", "--json"]
    fids = []
    for flags in (["--device", "cpu"], START, ["--device", "cpu"]):
        capsys.readouterr()
        assert main([*words, *flags]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        fids.append((row["start"], row["fid"]))
    assert fids[0] == fids[2]
    assert [start for start, _ in fids] == ["auto", "components:4@0.5", "auto"]
    assert fids[1][1] < fids[0][1] / 1.5
