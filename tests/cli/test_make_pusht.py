"""``immiscible make-pusht`` from the words to the folder."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from immiscible.cli import main
from immiscible.data.demonstrations import read_demonstrations
from immiscible.environments import demonstrate
from immiscible.environments.planner import Attempt, attempt
from immiscible.environments.pusht import PushT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("make") / "demonstrations"
    assert main(["make-pusht", str(out), "--episodes", "3"]) == 0
    return out


def test_episodes_are_read_back_and_reach_what_is_said_of_them(folder: Path) -> None:
    data, facts = read_demonstrations(str(folder)), json.loads((folder / "demonstrations.json").read_text())
    assert (data.episodes, len(data), data.rate, data.passed_over) == (3, facts["frames"], 10.0, {})
    assert facts["passed_over"] == {"attempts that did not succeed": facts["episodes"][-1]["attempt"] - 2}
    for number, known in enumerate(facts["episodes"]):
        observations, actions = data.episode(number)
        simulator = PushT()
        np.testing.assert_array_equal(simulator.place(known["scene"]).astype(np.float32), observations[0])
        for action in actions:
            simulator.step(action)
        assert simulator.coverage == known["coverage"] > 0.95
        assert len(actions) == known["steps"]


def test_picture_and_card_are_written(folder: Path) -> None:
    with Image.open(folder / "demonstrations.png") as picture:
        assert picture.size[0] > 600
    assert "immiscible make-pusht --episodes 3 --seed 0" in (folder / "README.md").read_text()
    assert {path.name for path in folder.iterdir()} == {
        *("README.md", "demonstrations.json", "demonstrations.npz", "demonstrations.png")
    }


def test_fewer_episodes_are_the_first_of_more(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # What a killed command left is no hindrance.
    (tmp_path / ".few.part").mkdir()
    assert main(["make-pusht", str(tmp_path / "few"), "--episodes", "2", "--json"]) == 0
    few, more = read_demonstrations(str(tmp_path / "few")), read_demonstrations(str(folder))
    np.testing.assert_array_equal(few.observations, more.observations[: len(few)])
    np.testing.assert_array_equal(few.actions, more.actions[: len(few)])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["episodes"], printed["frames"]) == (2, len(few))
    assert [path.name for path in tmp_path.iterdir()] == ["few"]


def test_attempts_that_fail_are_left_out_and_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(seed: int, number: int) -> Attempt:
        tried = attempt(seed, number)
        return dataclasses.replace(tried, coverage=[0.5]) if number in (0, 2) else tried

    monkeypatch.setattr(demonstrate, "attempt", failing)
    assert main(["make-pusht", str(tmp_path / "out"), "--episodes", "2"]) == 0
    assert "2 attempts did not succeed and were left out" in capsys.readouterr().out
    facts = json.loads((tmp_path / "out/demonstrations.json").read_text())
    assert [known["attempt"] for known in facts["episodes"]] == [1, 3]
    assert facts["passed_over"] == {"attempts that did not succeed": 2}
    second, data = read_demonstrations(str(folder)).episode(1), read_demonstrations(str(tmp_path / "out"))
    np.testing.assert_array_equal(data.episode(0)[1], second[1])


def test_a_place_that_is_taken_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["make-pusht", str(folder)]) == 2
    assert "DIR must be a new directory" in capsys.readouterr().err


def test_without_the_simulator_one_line_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("gym_pusht")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gym_pusht", None)
    assert main(["make-pusht", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "pip install 'immiscible-diffusion[policy]'" in said
    assert not (tmp_path / "out").exists()
