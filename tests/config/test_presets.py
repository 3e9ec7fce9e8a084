from __future__ import annotations

import json
from pathlib import Path

import pytest

from immiscible.cli import main
from immiscible.config.systems import SYSTEMS, config_of, presets_of

CONFIGS = {name: config_of(name) for name in SYSTEMS}
PRESETS = {name: presets_of(row) for name, row in SYSTEMS.items()}


@pytest.mark.parametrize(("task", "name"), [(task, name) for task in PRESETS for name in PRESETS[task]])
def test_presets_are_valid_settings(task: str, name: str) -> None:
    CONFIGS[task](out=Path("run"), **PRESETS[task][name])


@pytest.mark.parametrize("task", ["flow", "ddim", "consistency"])
def test_preset_takes_the_place_of_defaults_and_flags_go_before_it(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", task, "--preset", "digits", "--steps", "7", "--out", str(tmp_path / "run"), "--dry-run"]
    assert main(words) == 0
    resolved = json.loads(capsys.readouterr().out)
    assert (resolved["task"], resolved["steps"], resolved["data"]) == (task, 7, "digits")
    for key, value in PRESETS[task]["digits"].items():
        assert key == "steps" or resolved[key] == value
    assert "preset" not in resolved


def test_published_settings_of_stable_diffusion_say_what_the_papers_say() -> None:
    scratch, tuned = (PRESETS["stable-diffusion"][f"sd14-imagenet-{mode}"] for mode in ("scratch", "finetune"))
    keys = ("mode", "batch_size", "learning_rate", "steps", "image_size")
    assert [scratch[key] for key in keys] == ["scratch", 2048, 1e-4, 20_000, 256]
    assert [tuned[key] for key in keys] == ["finetune", 512, 1e-5, 5000, 256]


def test_published_setting_of_ddim(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The numbers of the papers, on other data since CIFAR-10 cannot be had everywhere."""
    words = "train ddim --preset=cifar10 --data digits --image-size 32 --out x --dry-run".split()
    assert main(words) == 0
    resolved = json.loads(capsys.readouterr().out)
    expected = {"width": 128, "depth": 4, "attention": "16", "dropout": 0.1, "learning_rate": 2e-4, "warmup": 5000}
    expected |= {"ema": 0.9999, "batch_size": 256, "schedule": "linear", "flip": True}
    assert {key: resolved[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["train", "flow", "--preset", "imagenet", "--out", "x"],
            "--preset must be one of digits, fashion-mnist, cifar10",
        ),
        (["sample", "RUN", "--out", "x", "--preset", "digits"], "--preset is a flag of train and compare"),
        (["train", "flow", "--preset", "digits"], "--out"),
    ],
)
def test_bad_presets_get_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
