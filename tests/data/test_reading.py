"""What `load` takes for data, and what it says about the rest."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from immiscible.config.groups import ReadOptions
from immiscible.data import Images, load, readers, reading
from immiscible.errors import InputError


def test_the_digits() -> None:
    data = load("digits")
    assert (data.name, len(data), data.shape, data.classes) == ("digits", 1797, (1, 8, 8), 10)
    assert data.class_names == tuple("0123456789")
    assert data.pixels.dtype == torch.uint8
    assert data.labels is not None
    assert data.labels[:3].tolist() == [0, 1, 2]
    assert data.pixels[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]


def test_a_folder_does_not_stand_in_for_the_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/train-images-idx3-ubyte").touch()
    assert len(load("digits")) == 1797
    with pytest.raises(InputError, match="IDX"):
        load("./digits")


def test_only_the_digits_need_sklearn(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4), np.uint8))
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    code = f"""
import sys
sys.modules["sklearn"] = None
from immiscible.data import load
from immiscible.errors import InputError
assert "PIL" not in sys.modules
load({str(tmp_path / "a.npy")!r})
load({str(tmp_path)!r})
try:
    load("digits")
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install scikit-learn" in done.stdout


@pytest.mark.parametrize("suffix", [".npy", ".NPY"])
def test_a_file_and_a_folder_are_told_apart(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"some{suffix}"
    with path.open("wb") as file:
        np.save(file, np.full((2, 4, 4), 7, np.uint8))
    Image.new("RGB", (5, 6)).save(tmp_path / "a.png")
    assert (load(str(path)).name, load(str(path)).shape) == (path.name, (1, 4, 4))
    assert (load(str(tmp_path)).name, load(str(tmp_path)).shape) == (tmp_path.name, (3, 6, 5))


@pytest.mark.parametrize("spec", ["mnist", "", "no/such.npz", "a\0b", "x" * 5000, "~nobody-of-this-name/x"])
def test_what_is_not_there_gets_the_list_of_what_is_allowed(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"digits.*npy or .npz.*folder of PNG/JPEG.*no such path") as caught:
        load(spec)
    assert "\n" not in str(caught.value)


def test_another_kind_of_file_gets_the_list_of_what_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(InputError, match=r"digits.*npy or .npz.*folder of PNG/JPEG.*none of these"):
        load(str(tmp_path / "a.csv"))


def test_an_unreadable_folder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"must be readable, got: .*Permission denied"):
        load(str(tmp_path))


@pytest.mark.parametrize("size", [0, -3])
def test_sizes_below_one_are_refused(size: int) -> None:
    with pytest.raises(InputError, match="at least 1"):
        load("digits", image_size=size)


def test_digits_can_be_resized() -> None:
    small = load("digits", image_size=5)
    assert (len(small), small.shape, small.classes) == (1797, (1, 5, 5), 10)
    assert small.fingerprint() != load("digits").fingerprint()
    assert load("digits", image_size=8).fingerprint() == load("digits").fingerprint()


def test_each_file_of_readers_is_a_reader_in_the_list() -> None:
    files = {file.stem for file in Path(readers.__file__).parent.glob("*.py")} - {"__init__"}
    assert sorted(reading.READERS) == sorted(files)
    known = {field.name for field in dataclasses.fields(ReadOptions)}
    for name in reading.READERS:
        module = importlib.import_module(f"immiscible.data.readers.{name}")
        assert set(module.TAKES) <= known
        assert list(inspect.signature(module.matches).parameters) == ["spec"]
        assert list(inspect.signature(module.read).parameters) == ["spec", "options"]


def test_a_reader_is_one_module_and_its_name_in_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = ModuleType("immiscible.data.readers.toy")
    vars(toy).update(
        TAKES=("class_count",),
        matches=lambda spec: spec.startswith("toy:"),
        read=lambda spec, options: Images(spec, torch.zeros(options.class_count, 1, 4, 4, dtype=torch.uint8)),
    )
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    with pytest.raises(InputError, match="data must be"):
        load("toy:a")
    monkeypatch.setattr(reading, "READERS", (*reading.READERS, "toy"))
    assert load("toy:a", class_count=3, image_size=2).pixels.shape == (3, 1, 2, 2)
    with pytest.raises(InputError, match="--split is for data that comes in parts, got test with toy:a"):
        load("toy:a", class_count=3, split="test")
    with pytest.raises(InputError, match="--label-column"):
        load("toy:a", class_count=3, label_column="x")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "test"}, "--split is for data that comes in parts"),
        ({"caption_column": "a"}, "--caption-column are for Hugging Face datasets and streams"),
        ({"class_count": 2}, "--class-count is for streams"),
    ],
)
def test_options_that_would_change_nothing_are_refused(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4), np.uint8))
    for spec in ("digits", str(tmp_path / "a.npy")):
        with pytest.raises(InputError, match=said):
            load(spec, **options)
    assert len(load(str(tmp_path / "a.npy"), skip_corrupt=True)) == 2
    with pytest.raises(TypeError, match="spilt"):
        load("digits", spilt="test")
