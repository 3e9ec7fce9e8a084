from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from immiscible.cli.arguments import train_flags
from immiscible.cli.parsing import parse
from immiscible.config.groups import as_json, differing_keys
from immiscible.config.recipes import FlowConfig
from immiscible.config.systems import SYSTEMS, config_of
from immiscible.errors import InputError
from immiscible.runs.directory import open_run, read_config

CONFIGS = {name: config_of(name) for name in SYSTEMS}


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
        ("shift", -1),
        ("data_scale", 0.0),
        ("data_scale", float("inf")),
        ("schedule_shift", -2.0),
        ("cost_space", "pooled"),
        ("cost_space", "pca:0"),
        ("coupling_start", -1),
        ("dropout", 1.0),
        ("layers", 0),
        ("attention", "16;8"),
        ("network", "transformer"),
    ],
)
def test_values_out_of_range_are_refused_by_the_name_of_the_flag(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"--{field.replace('_', '-')} must be"):
        FlowConfig(out=Path("run"), **{field: value})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("task", CONFIGS)
def test_fields_of_every_group_are_checked(task: str) -> None:
    text = task == "stable-diffusion"
    own: dict[str, Any] = {"lora_rank": 0, "caption_template": "no place", "guidance": -1.0} if text else {"width": -1}
    images = {} if task == "policy" else {"data_scale": 0.0}
    for field, value in {**images, "cost_space": "", "steps": 0, "log_every": 0, **own}.items():
        with pytest.raises(InputError, match=f"--{field.replace('_', '-')} must be"):
            CONFIGS[task](out=Path("run"), **({"model": "tiny"} if text else {}), **{field: value})


@pytest.mark.parametrize(
    ("task", "values", "said"),
    [
        ("flow", {"coupling_start": 5, "coupling_stop": 5}, "--coupling-stop must be 0 or after --coupling-start = 5"),
        ("flow", {"across_classes": True}, "--across-classes needs --conditional"),
        ("ddim", {"zero_terminal_snr": True}, "--zero-terminal-snr needs --prediction v or x0, got eps"),
        ("ddim", {"timesteps": 1}, "--timesteps must be at least 2"),
        ("ddim", {"min_snr": -1.0}, "--min-snr must be zero or more"),
        ("ddim", {"prediction": "x1"}, "--prediction must be one of eps, v, x0, got x1"),
        ("consistency", {"sigma_max": 0.001}, "--sigma-max must be above --sigma-min = 0.002"),
        ("consistency", {"levels": 20, "most_levels": 10}, "--most-levels must be at least --levels = 20"),
        ("consistency", {"huber": 0.0}, "--huber must be positive"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(task: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        CONFIGS[task](out=Path("run"), **values)
    assert said in str(caught.value)


def test_batch_must_split_evenly() -> None:
    with pytest.raises(InputError, match="multiple of --accumulation, got 10 and 3"):
        FlowConfig(out=Path("run"), batch_size=10, accumulation=3)


def test_only_what_changes_the_result_counts_as_another_configuration() -> None:
    config = FlowConfig(out=Path("run"))
    same = dataclasses.replace(config, out=Path("other"), device="cpu", log_every=3, tensorboard=False)
    other = dataclasses.replace(config, seed=1, clip=2.0)
    assert differing_keys(as_json(same), as_json(config)) == []
    assert differing_keys(as_json(other), as_json(config)) == ["clip", "seed"]


@pytest.mark.parametrize(
    ("share", "step"), [("25%", 500), ("0%", 0), ("100%", 2000), ("12.5%", 250), ("7%", 140), ("0.01%", 1)]
)
def test_a_share_of_the_steps_is_held_as_the_step(share: str, step: int) -> None:
    config = FlowConfig(out=Path("run"), coupling_start=share)  # pyright: ignore[reportArgumentType]
    assert as_json(config)["coupling_start"] == step
    assert dataclasses.replace(config, steps=4000).coupling_start == step


def test_a_share_is_one_of_all_steps_and_comes_before_what_follows_it() -> None:
    made = parse(train_flags("flow"), "train", "", ["--out", "run", "--coupling-stop", "50%", "--steps", "40"])
    assert made.coupling_stop == 20
    for shares in (("101%", "0"), ("-1%", "0"), ("1e1%", "0"), ("%", "0"), ("50%", "25%"), ("50%", "50%")):
        words = ["--out", "run", "--coupling-start", shares[0], "--coupling-stop", shares[1]]
        with pytest.raises(InputError, match=r"--coupling-st(art|op) must be"):
            parse(train_flags("flow"), "train", "", words)
    with pytest.raises(InputError, match="got 'soon': a share of --steps is written as 25%"):
        parse(train_flags("flow"), "train", "", ["--out", "run", "--coupling-start", "soon"])


def test_a_run_with_a_share_is_extended_by_the_step_it_stands_for(tmp_path: Path) -> None:
    config = FlowConfig(out=tmp_path, steps=20, coupling_start="25%")  # pyright: ignore[reportArgumentType]
    open_run(config, {})
    (tmp_path / "checkpoints/step-20").mkdir(parents=True)
    longer = FlowConfig(out=tmp_path, steps=40, coupling_start="25%", extend=True)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"coupling_start was 5, is 10.*keep --coupling-start 5 and add --extend"):
        open_run(longer, {})
    open_run(dataclasses.replace(config, steps=40, extend=True), {})
    assert read_config(tmp_path)["steps"] == 40


def test_run_directory_is_not_taken_from_others(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="other contents"):
        open_run(FlowConfig(out=tmp_path), {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_run_that_was_killed_as_it_began_can_begin_again(tmp_path: Path) -> None:
    (tmp_path / ".config.json.k3x.part").write_text('{"task":')
    open_run(FlowConfig(out=tmp_path), {})
    assert read_config(tmp_path)["coupling"] == "assignment"


def test_run_without_a_checkpoint_may_change(tmp_path: Path) -> None:
    config = FlowConfig(out=tmp_path)
    open_run(config, {"data_fingerprint": "a", "processes": 2})
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/step-5.png").touch()
    (tmp_path / "samples/mine.png").touch()
    open_run(config, {"data_fingerprint": "a", "processes": 2})
    assert (tmp_path / "samples/step-5.png").exists()
    open_run(dataclasses.replace(config, seed=7), {"data_fingerprint": "b"})
    saved = read_config(tmp_path)
    assert (saved["seed"], saved["data_fingerprint"], saved["processes"]) == (7, "b", 1)
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["mine.png"]


def test_run_of_other_seeds_is_not_gone_on_with(tmp_path: Path) -> None:
    config = FlowConfig(out=tmp_path, steps=10)
    open_run(config, {"version": "0.1.0"})
    (tmp_path / "checkpoints/step-5").mkdir(parents=True)
    with pytest.raises(InputError, match=r"got one of version 0\.1\.0, whose data and noise would be others"):
        open_run(config, {"version": "0.2.0", "seed_bits": 63})
    # Nothing is drawn any more for one whose training is over.
    (tmp_path / "checkpoints/step-10").mkdir()
    open_run(config, {"version": "0.2.0", "seed_bits": 63})
    assert read_config(tmp_path)["version"] == "0.1.0"
    with pytest.raises(InputError, match="seed was 0, is 1"):
        open_run(dataclasses.replace(config, seed=1), {"version": "0.2.0", "seed_bits": 63})
    with pytest.raises(InputError, match="whose data and noise would be others"):
        open_run(dataclasses.replace(config, steps=20, extend=True), {"version": "0.2.0", "seed_bits": 63})


@pytest.mark.parametrize("name", ["step-3", "step-3.damaged-1"])
def test_other_data_is_another_configuration(tmp_path: Path, name: str) -> None:
    config = FlowConfig(out=tmp_path / "run")
    open_run(config, {"data_fingerprint": "a"})
    (tmp_path / "run/checkpoints" / name).mkdir(parents=True)
    open_run(config, {"data_fingerprint": "a"})
    with pytest.raises(InputError, match="data_fingerprint was 'a', is 'b'"):
        open_run(config, {"data_fingerprint": "b"})
    assert read_config(tmp_path / "run")["coupling"] == "assignment"


def test_what_changes_nothing_does_not_make_another_configuration(tmp_path: Path) -> None:
    """Versions that did not refuse such a flag may have begun a run with it."""
    facts = {"task": "flow", "data_fingerprint": "same"}
    open_run(FlowConfig(out=tmp_path / "run", label_dropout=0.3), facts)
    (tmp_path / "run" / "checkpoints" / "step-3").mkdir(parents=True)
    open_run(FlowConfig(out=tmp_path / "run"), facts)
    with pytest.raises(InputError, match=r"conditional was False, is True, label_dropout was 0\.3"):
        open_run(FlowConfig(out=tmp_path / "run", conditional=True), facts)
