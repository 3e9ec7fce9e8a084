from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from immiscible.errors import InputError
from immiscible.training.config import FlowConfig, as_json, differing_keys
from immiscible.training.rundir import open_run, read_config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_size", -1),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("ema", 1.0),
        ("label_dropout", 1.5),
        ("checkpoint_every", 0),
        ("image_size", 0),
        ("clip", -1.0),
    ],
)
def test_values_out_of_range_are_refused_by_the_name_of_the_flag(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--{field.replace('_', '-')} must be"):
        FlowConfig(out=Path("run"), **{field: value})  # pyright: ignore[reportArgumentType]


def test_batch_must_split_evenly() -> None:
    with pytest.raises(InputError, match="multiple of --accumulation, got 10 and 3"):
        FlowConfig(out=Path("run"), batch_size=10, accumulation=3)


def test_only_what_changes_the_result_counts_as_another_configuration() -> None:
    config = FlowConfig(out=Path("run"))
    same = dataclasses.replace(config, out=Path("other"), device="cpu", log_every=3, tensorboard=False)
    other = dataclasses.replace(config, seed=1, clip=2.0)
    assert differing_keys(as_json(same), as_json(config)) == []
    assert differing_keys(as_json(other), as_json(config)) == ["clip", "seed"]


def test_run_directory_is_not_taken_from_others(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="other contents"):
        open_run(FlowConfig(out=tmp_path), {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_data_is_another_configuration(tmp_path: Path) -> None:
    config = FlowConfig(out=tmp_path / "run")
    open_run(config, {"data_fingerprint": "a"})
    open_run(config, {"data_fingerprint": "a"})
    with pytest.raises(InputError, match="data_fingerprint was 'a', is 'b'"):
        open_run(config, {"data_fingerprint": "b"})
    assert read_config(tmp_path / "run")["coupling"] == "assignment"
