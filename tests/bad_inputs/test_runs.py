"""Run directories that were altered, and flags that do not fit the run that they are given for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from immiscible.cli import main

TRAIN = (
    "train flow --data digits --steps 4 --batch-size 32 --width 8 --depth 1 --network mlp --checkpoint-every 2 "
    "--log-every 1 --no-tensorboard --device cpu"
).split()
HOSTILE = "\x1b[2J\x9b31m"
DEEP = "[" * 100_000
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with scores, unconditional."""
    out = tmp_path_factory.mktemp("bad") / "run"
    assert main([*TRAIN, "--out", str(out)]) == 0
    assert main(["evaluate", str(out), "--num", "40", "--nfe", "2", "--features", "pixels", "--device", "cpu"]) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def edited(path: Path, **values: Any) -> None:
    """Changes values of a JSON object; None takes the key away."""
    old = json.loads(path.read_text())
    new = {key: value for key, value in {**old, **values}.items() if value is not None}
    path.write_text(json.dumps(new))


# What may stand in a file instead of JSON.
TORN: dict[str, bytes] = {
    "empty": b"",
    "spaces": b" \n",
    "half": b'{"task": "fl',
    "binary": b"\xff\xfe\x00\x80",
    "deep": DEEP.encode(),
    "deep object": b'{"a":' * 50_000,
    "nan": b'{"task": NaN}',
    "infinity": b'{"task": -Infinity}',
    "huge number": b'{"steps": ' + b"9" * 5000 + b"}",
    "huge float": b'{"steps": 1e999}',
    "list": b"[1, 2]",
    "null": b"null",
    "string": b'"\\u001b[2J"',
    "number": b"3",
    "nulls": b"\0" * 512,
    "utf-16": '{"task": "flow"}'.encode("utf-16"),
}
CONFIG_VALUES: list[tuple[str, Any]] = [
    *(
        (key, value)
        for key in ("steps", "batch_size", "width", "seed", "classes")
        for value in ("4", 1.5, [], {}, True, 10**30)
    ),
    *((key, value) for key in ("learning_rate", "ema", "data_scale") for value in ("x", [], False, -1e308)),
    *((key, value) for key in ("flip", "conditional") for value in (0, 1, "true", [])),
    *((key, value) for key in ("network", "mixed_precision", "device") for value in ("x", 3, [], {}, HOSTILE)),
    *((key, value) for key in ("data", "cost_space", "split") for value in (3, [], {}, "a\0b")),
    *(
        ("data_shape", value)
        for value in (3, [], [1], [1, 8], [1, 8, 8, 8], [1, 8, "8"], [1, 8, -8], [1, 8, 1.5], [1, 8, 10**9])
    ),
    *(("task", value) for value in ("x", "", 3, [], {}, HOSTILE, "Flow")),
    *(("processes", value) for value in (0, -1, "1", [])),
    *(("data_fingerprint", value) for value in (3, [], {})),
    ("batch_size", 31.0),
    ("accumulation", 5),
    ("coupling", 3),
    ("attention", "x"),
]


@pytest.mark.parametrize("name", TORN)
def test_a_configuration_that_is_no_json_is_told(name: str, run: Path, refused: Refused) -> None:
    (run / "config.json").write_bytes(TORN[name])
    for words in (
        ["sample", "run", "--out", "x.png"],
        ["evaluate", "run"],
        ["export", "run", "x"],
        [*TRAIN, "--out", "run"],
    ):
        refused(words, "config.json")


def test_a_directory_for_a_file_is_told(trained: Path, run: Path, refused: Refused) -> None:
    for name in ("config.json", "metrics.jsonl"):
        (run / name).unlink()
        (run / name).mkdir()
        refused([*TRAIN, "--out", "run"], name, started=name == "metrics.jsonl")
        shutil.rmtree(run / name)
        shutil.copy(trained / name, run / name)


@pytest.mark.parametrize(("key", "value"), CONFIG_VALUES, ids=lambda value: ascii(value)[:20])
def test_altered_values_are_told_by_file_and_key(key: str, value: Any, run: Path, refused: Refused) -> None:
    edited(run / "config.json", **{key: value})
    line = refused(["sample", "run", "--out", "x.png"], "run")
    assert key.replace("_", "-") in line.replace("_", "-") or "must be a run of flow, ddim" in line
    refused(["evaluate", "run"])


@pytest.mark.parametrize("key", ["task", "data_shape", "classes", "data_fingerprint"])
def test_missing_values_are_told(key: str, run: Path, refused: Refused) -> None:
    edited(run / "config.json", **{key: None})
    refused(["sample", "run", "--out", "x.png"], f"config.json must hold `{key}`, got none")


@pytest.mark.parametrize(
    ("key", "value"), [("width", 16), ("depth", 2), ("data_shape", [1, 16, 16]), ("network", "unet"), ("depth", 0)]
)
def test_weights_of_another_network_are_not_loaded(key: str, value: Any, run: Path, refused: Refused) -> None:
    edited(run / "config.json", **{key: value})
    refused(["sample", "run", "--out", "x.png"], "ema.safetensors", "restore the files")


@pytest.mark.parametrize("name", TORN)
def test_a_state_that_is_no_json_is_passed_over_and_kept(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = (run / "checkpoints/step-4/ema.safetensors").read_bytes()
    (run / "checkpoints/step-4/state.json").write_bytes(TORN[name])
    capsys.readouterr()
    assert main(["sample", str(run), "--num", "1", "--nfe", "1", "--out", str(run.parent / "x.png")]) == 0
    said = capsys.readouterr()
    assert "damaged checkpoint, passed over" in said.err
    assert "of step 2" in said.out
    assert "\x1b" not in said.err + said.out
    assert main([*TRAIN, "--out", str(run)]) == 0
    assert (run / "checkpoints/step-4/ema.safetensors").read_bytes() == weights
    assert (run / "checkpoints/step-4.damaged-1/state.json").read_bytes() == TORN[name]


STATE_VALUES: list[tuple[str, Any]] = [
    *(("step", value) for value in ("4", 4.5, -1, None, [], True, 3, 10**30)),
    *(("sha256", value) for value in (None, [], "x", {}, {"ema.safetensors": 3})),
    *(
        ("loop", value)
        for value in (None, [], "x", {}, {"loss_sum": "x", "loss_count": 0}, {"loss_sum": 0, "loss_count": -1})
    ),
    ("loop", {"loss_sum": 0, "loss_count": 0, "stream": 3}),
    ("loop", {"loss_sum": 0, "loss_count": 0, "scaler": "x"}),
    *(("optimizer", value) for value in (None, [], "x", {})),
]


@pytest.mark.parametrize(("key", "value"), STATE_VALUES, ids=lambda value: ascii(value)[:20])
def test_an_altered_state_is_no_whole_checkpoint(
    key: str, value: Any, run: Path, refused: Refused, capfd: pytest.CaptureFixture[str]
) -> None:
    edited(run / "checkpoints/step-4/state.json", **{key: value})
    shutil.rmtree(run / "checkpoints/step-2")
    line = refused(["sample", "run", "--out", "x.png"], "must hold a whole checkpoint", started=True)
    assert "run its training command again" in line


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("param_groups", 3, "must have 1 group"),
        ("param_groups", [], "must have 1 group"),
        ("param_groups", [{"params": [0], "lr": 1}], "must have a group"),
        ("param_groups", [3], "must have a group"),
    ],
)
def test_an_optimiser_of_something_else_is_not_loaded(
    key: str, value: Any, said: str, run: Path, refused: Refused
) -> None:
    shutil.rmtree(run / "checkpoints/step-4")
    edited(run / "checkpoints/step-2/state.json", optimizer={key: value})
    refused([*TRAIN, "--out", "run"], said, "restore the files", started=True)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 64, b"x\n{}\n", b"[1]\n3\n", DEEP.encode() + b"\n", b"\xff\n", b'{"step": 1}\n'],
    ids=lambda value: repr(value[:9]),
)
def test_a_finished_run_without_metrics_opens(content: bytes, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "metrics.jsonl").write_bytes(content)
    assert main([*TRAIN, "--out", str(run)]) == 0
    # The summary still knew.
    assert "ms each" in capsys.readouterr().out
    (run / "summary.json").unlink()
    assert main([*TRAIN, "--out", str(run)]) == 0
    said = capsys.readouterr()
    assert "are lost" in said.err
    assert said.out == f"{run}: 4 steps\n"
    assert main(["sample", str(run), "--num", "1", "--nfe", "1", "--out", str(run.parent / "x.png")]) == 0


@pytest.mark.parametrize("name", TORN)
def test_scores_that_were_altered_are_measured_again_and_kept(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "evaluation.json").write_bytes(TORN[name])
    words = ["evaluate", str(run), "--num", "40", "--nfe", "2", "--features", "pixels", "--device", "cpu", "--json"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "a copy is kept" in said.err
    assert (run / "evaluation.json.damaged-1").read_bytes() == TORN[name]
    assert json.loads((run / "evaluation.json").read_text())["scores"][0]["samples"] == 40


def test_rows_that_were_altered_are_measured_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "evaluation.json"
    rows = json.loads(path.read_text())["scores"]
    good = path.read_text()
    for bad in (3, [], {}, {**rows[0], "fid": "x"}, {**rows[0], "step": "4"}, {**rows[0], "calls": None}, None):
        path.write_text(json.dumps({"scores": [bad, *rows]}))
        assert main(["export", str(run), str(run.parent / "out")]) == 2
        assert "flow: diffusers has no" in capsys.readouterr().err
        words = ["evaluate", str(run), "--num", "40", "--nfe", "3", "--features", "pixels", "--device", "cpu"]
        assert main(words) == 0
        assert "a copy is kept" in capsys.readouterr().err
        assert [row["nfe"] for row in json.loads(path.read_text())["scores"]] == ["2", "3"]
        path.write_text(good)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("sample run --out x.png --steps 5", "--steps need a run of Stable Diffusion"),
        ("sample run --out x.png --scheduler pndm", "--scheduler need a run of Stable Diffusion"),
        ("sample run --out x.png --prompts p.txt", "--prompts need a run of Stable Diffusion"),
        ("sample run --out x.png --batch-size 8", "--batch-size need a run of Stable Diffusion"),
        ("sample run --out x --format npz", "--format need a run of Stable Diffusion"),
        ("sample run --out x.png --nfe 5,10", "--nfe must be one number or adaptive here"),
        ("sample run --out x.png --nfe 0", "--nfe must be positive"),
        ("sample run --out x.png --nfe 1000000000", "--nfe must be at most 100,000"),
        ("sample run --out x.png --nfe 1e3", "--nfe must list whole numbers"),
        ("sample run --out x.png --nfe 3 --sampler heun", "--nfe must be even for heun"),
        ("sample run --out x.png --sampler ddim", "--sampler must be one of euler, heun for flow"),
        ("sample run --out x.png --eta 0.5", "--eta needs the sampler ddim"),
        ("sample run --out x.png --guidance 2", "--guidance needs a class-conditional run"),
        ("sample run --out x.png --classes 1", "--classes must be left out, since the run is unconditional"),
        ("sample run --out x.png --classes 1 --prompts p", "--prompts and --classes exclude each other"),
        ("sample run --out x.png --step 3", "must hold a checkpoint of step 3, got steps: 2, 4"),
        ("sample run --out x.png --step 0", "must hold a checkpoint of step 0"),
        ("sample run --out x.jpg", "--out must end in .png"),
        ("sample run/config.json --out x.png", "must be a run directory"),
        ("sample . --out ../x.png", "must be a run directory"),
        ("sample nowhere\x1b[2J --out x.png", "nowhere\\x1b[2J must be a run directory"),
        ("sample run --out x.png --start components:8", "--start must be auto"),
        ("evaluate run --start components:8@1.5", "--start must be auto"),
        ("evaluate run --nfe 5,5", "--nfe must list different numbers"),
        ("evaluate run --nfe ,", "--nfe must list whole numbers"),
        ("evaluate run --clip x", "--clip and --task need a run of Stable Diffusion"),
        ("evaluate run --task inpaint", "--clip and --task need a run of Stable Diffusion"),
        ("evaluate run --num 3", "at least 4 generated images, got 3"),
        ("evaluate run --guidance 0", "--guidance needs a class-conditional run"),
        ("evaluate run --features inception", "inception"),
        ("inpaint run --images digits --out x.png", "must be a run of Stable Diffusion"),
        ("inpaint nowhere --images digits --out x.png", "nowhere"),
        ("export run x", "export needs a run of ddim or consistency, got flow"),
        ("export run run", "run"),
        ("describe knn:0", "coupling 'knn:0': K must be a finite number of at least 1"),
        ("describe knn:inf", "K must be a finite number"),
        ("describe assignment@nan", "PROBABILITY must be a probability"),
        ("describe assignment:1", "BLOCK must be"),
        ("describe assignment:exact:slabs", "unknown coupling"),
    ],
)
def test_what_does_not_fit_the_run_is_refused(words: str, said: str, run: Path, refused: Refused) -> None:
    refused(words.split(" "), said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--attention 8", "--attention needs --network unet or auto, got mlp"),
        ("--layers 3", "--layers needs --network unet"),
        ("--head-channels 8", "--head-channels needs --network unet"),
        ("--dropout 0.5", "--dropout needs --network unet"),
        ("--network mlp --dropout 0.5", "--dropout needs --network unet"),
        ("--label-dropout 0.5", "--label-dropout needs --conditional"),
        ("--across-classes", "--across-classes needs --conditional"),
        ("--class-count 5", "--class-count is for streams"),
        ("--split test", "--split is for data that comes in parts"),
        ("--image-column x", "--image-column, --label-column and --caption-column are for Hugging Face"),
        ("--coupling knn:nan", "K must be a finite number"),
        ("--coupling assignment@2", "PROBABILITY must be"),
        ("--coupling \u202eknn", "unknown coupling '\\u202eknn'"),
        ("--pool 100", "--pool must be 0 or a multiple"),
        ("--data nowhere\x1b[2J", "nowhere\\x1b[2J"),
        ("--data \ud800", "\\ud800"),
        ("--data .", "."),
        ("--sharding fsdp", "--sharding fsdp needs several processes"),
        ("--device mps", "--device must be available here"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(words: str, said: str, refused: Refused) -> None:
    refused(["train", "flow", "--out", "out", "--device", "cpu", "--steps", "2", *words.split(" ")], said)


def test_what_only_the_images_can_tell_is_refused_after_the_start(refused: Refused) -> None:
    words = ["train", "flow", "--out", "out", "--device", "cpu"]
    refused([*words, "--shift", "8"], "--shift must be less than the sides of the images", started=True)


def test_too_little_memory_is_told(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    # More than there are addresses, whatever the machine would promise.
    monkeypatch.setattr("immiscible.cli.describe.describe", lambda arguments: torch.empty(2**50, dtype=torch.uint8))
    refused(["describe", "knn:4"], "not enough memory", "--batch-size", status=1)


@pytest.mark.parametrize(
    ("couplings", "said"),
    [
        ("independent[noise-scale=-1]", "noise-scale in --couplings must be positive, got -1.0"),
        ("independent[noise-scale=nan]", "noise-scale in --couplings must be a finite number"),
        ("independent[noise-scale=1e300]", "noise-scale in --couplings must be at most 10000"),
        ("knn:4[pool=1e16]", "pool in --couplings must be a whole number"),
        ("knn:4[pool=99999999999999]", "pool in --couplings must be at most"),
        ("knn:4[min-snr=1]", "a setting in --couplings must be one of"),
        ("knn:4[learning-rate=inf]", "learning-rate in --couplings must be a finite number"),
        ("knn:4[batch-size=0]", "batch-size in --couplings must be positive"),
        ("knn:4[cost-space=pca:0]", "cost-space in --couplings must be raw"),
        ("knn:4[start=0.5]", "start in --couplings must be auto"),
        ("knn:4,prior:components:0", "a prior must be spelled as components:32"),
        ("knn:4[network=x]", "network in --couplings must be one of auto, mlp, unet"),
        ("knn:4[flip=true]", "a setting in --couplings must be one of"),
        ("knn:4[ema=0.9,ema=0.8]", "ema in --couplings must stand once"),
        ("knn:4[ema=0.9", "--couplings must be couplings such as"),
        ("knn:4[=]", "a setting in --couplings must be one of"),
        ("knn:4[\u202e=2]", "a setting in --couplings must be one of"),
        ("knn:4[label-dropout=0.5]", "--label-dropout in --couplings needs --conditional"),
        ("knn:4[network=mlp,layers=3]", "--layers in --couplings needs --network unet"),
        ("", "--couplings must be couplings"),
        (",", "--couplings must be couplings"),
        ("knn:4,,", "--couplings must be couplings"),
    ],
)
def test_bad_brackets_are_refused(couplings: str, said: str, refused: Refused) -> None:
    refused(["compare", "flow", "--out", "out", "--couplings", couplings], said)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--seeds", "", "--seeds must be whole numbers"),
        ("--seeds", "0,0", "--seeds must be different"),
        ("--seeds", "1,nan", "--seeds must be whole numbers"),
        ("--seeds", "9" * 30, "--seeds"),
        ("--seeds", "9" * 5000, "--seeds"),
        ("--nfe", "0", "--nfe must be positive"),
        ("--nfe", "5,5", "--nfe must list different numbers"),
        ("--nfe", "9" * 5000, "--nfe"),
        ("--evaluations", "0", "--evaluations must be from 1"),
        ("--evaluations", "3000", "--evaluations must be from 1 to --steps"),
        ("--couplings", "knn:4,knn:4", "--couplings must be different"),
    ],
    ids=lambda value: value[:20],
)
def test_bad_comparisons_are_refused(flag: str, value: str, said: str, refused: Refused) -> None:
    refused(["compare", "flow", "--out", "out", flag, value], said)
