from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from immiscible.data import cache, load
from immiscible.errors import InputError

datasets = pytest.importorskip("datasets")


def png(seed: int, size: tuple[int, int] = (7, 5)) -> bytes:
    buffer = io.BytesIO()
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(content: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(content)) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def saved(path: Path, columns: dict[str, list[Any]], features: dict[str, Any]) -> str:
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    table.save_to_disk(str(path))
    return f"hf:{path}"


def images(*contents: bytes) -> list[dict[str, Any]]:
    return [{"bytes": content, "path": None} for content in contents]


FIVE = [png(seed) for seed in range(5)]


def test_only_columns_of_their_kind_are_found(tmp_path: Path) -> None:
    features = {
        "text": datasets.Value("string"),
        "img": datasets.Image(),
        "fine": datasets.ClassLabel(names=["cat", "dog"]),
    }
    spec = saved(tmp_path / "pets", {"text": list("abcde"), "img": images(*FIVE), "fine": [0, 1, 1, 0, 1]}, features)
    data = load(spec)
    torch.testing.assert_close(data.pixels, torch.stack([pixels(content) for content in FIVE]))
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 1, 0, 1]
    assert (data.class_names, data.name) == (("cat", "dog"), "pets")


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    x, y = datasets.ClassLabel(names=["p", "q"]), datasets.ClassLabel(names=["r"])
    two = {"a": datasets.Image(), "b": datasets.Image(), "x": x, "y": y}
    columns = {"a": images(FIVE[0]), "b": images(FIVE[1]), "x": [1], "y": [0]}
    spec = saved(tmp_path / "two", columns, two)
    with pytest.raises(InputError, match="or --image-column name it, got 2 columns of images of a, b"):
        load(spec)
    with pytest.raises(InputError, match="several columns of labels, x, y: name one with --label-column"):
        load(spec, image_column="b")
    data = load(spec, image_column="b", label_column="x")
    torch.testing.assert_close(data.pixels[0], pixels(FIVE[1]))
    assert data.class_names == ("p", "q")
    with pytest.raises(InputError, match="got --image-column x of a, b, x, y"):
        load(spec, image_column="x")
    with pytest.raises(InputError, match="--label-column must be one of a, b, x, y, got z"):
        load(spec, image_column="a", label_column="z")


def test_integers_called_label_are_labels_and_else_there_are_none(tmp_path: Path) -> None:
    integers = {"image": datasets.Image(), "label": datasets.Value("int64")}
    data = load(saved(tmp_path / "a", {"image": images(*FIVE[:3]), "label": [7, 3, 7]}, integers))
    assert data.class_names == ("3", "7")
    assert load(saved(tmp_path / "b", {"image": images(*FIVE)}, {"image": datasets.Image()})).labels is None


@pytest.mark.parametrize("values", [[1.0, 2.0, 1.0], [1, None, 1], [[1], [2], [1]]])
def test_other_columns_are_no_labels(tmp_path: Path, values: list[Any]) -> None:
    table = datasets.Dataset.from_dict({"image": images(*FIVE[:3]), "y": values}).cast_column("image", datasets.Image())
    table.save_to_disk(str(tmp_path / "a"))
    assert load(f"hf:{tmp_path / 'a'}").labels is None
    with pytest.raises(InputError, match="an integer or a string for each image, got others or gaps in column y"):
        load(f"hf:{tmp_path / 'a'}", label_column="y")


def test_rows_without_an_image_count_as_damaged(tmp_path: Path) -> None:
    spec = saved(tmp_path / "a", {"image": [*images(FIVE[0]), None]}, {"image": datasets.Image()})
    with pytest.raises(InputError, match=r"1 of 2 images cannot be read: row 1 \(no image\)"):
        load(spec)


def test_splits_of_a_dictionary_on_disk(tmp_path: Path) -> None:
    def part(content: bytes) -> Any:
        only = datasets.Features({"image": datasets.Image()})
        return datasets.Dataset.from_dict({"image": images(content)}, features=only)

    datasets.DatasetDict({"train": part(FIVE[0]), "val": part(FIVE[1])}).save_to_disk(str(tmp_path / "d"))
    torch.testing.assert_close(load(f"hf:{tmp_path / 'd'}", split="val").pixels[0], pixels(FIVE[1]))
    with pytest.raises(InputError, match="--split must be one of train, val for"):
        load(f"hf:{tmp_path / 'd'}", split="test")


def test_sizes_and_damage_are_treated_as_in_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed = saved(tmp_path / "mixed", {"image": images(FIVE[0], png(9, (4, 4)))}, {"image": datasets.Image()})
    with pytest.raises(InputError, match=r"got 7x5 colour first and 4x4 colour in row 1: make them alike with"):
        load(mixed)
    assert load(mixed, image_size=4).pixels.shape == (2, 3, 4, 4)
    bad = saved(tmp_path / "bad", {"image": images(FIVE[0], FIVE[1][:-40], b"text")}, {"image": datasets.Image()})
    with pytest.raises(InputError, match=r"2 of 3 images cannot be read: row 2 \(no picture of .+\), row 1"):
        load(bad)
    assert len(load(bad, skip_corrupt=True)) == 1
    assert "left out" in capsys.readouterr().err


def test_large_datasets_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMMISCIBLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "LARGE", 100)
    spec = saved(tmp_path / "a", {"image": images(*FIVE)}, {"image": datasets.Image()})
    first = load(spec)
    monkeypatch.setattr("immiscible.data.decoding._decode", None)
    torch.testing.assert_close(load(spec).pixels, first.pixels)


def test_unlabelled_parts_are_refused(tmp_path: Path) -> None:
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}
    spec = saved(tmp_path / "a", {"image": images(*FIVE[:2]), "label": [-1, -1]}, features)
    with pytest.raises(InputError, match="labels must be known, got -1 in column label"):
        load(spec)


@pytest.mark.parametrize("name", ["pets", "pets@home"])
@pytest.mark.parametrize("kind", ["parquet", "pictures", "save_to_disk"])
def test_a_folder_may_be_of_any_kind_and_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / name
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": images(*FIVE), "text": list("abcde")}, features=features)
    folder.mkdir()
    if kind == "parquet":
        table.to_parquet(str(folder / "train.parquet"))
    elif kind == "save_to_disk":
        table.save_to_disk(str(folder))
    else:
        for number, content in enumerate(FIVE):
            (folder / f"{number}.png").write_bytes(content)
        rows = [f'{{"file_name": "{number}.png", "text": "{"abcde"[number]}"}}' for number in range(5)]
        (folder / "metadata.jsonl").write_text("\n".join(rows))
    for spec in (f"hf:{folder}", f"stream:hf:{folder}"):
        data = load(spec)
        torch.testing.assert_close(data.pixels, torch.stack([pixels(content) for content in FIVE]))
        assert data.captions == tuple("abcde")
    assert load(f"hf:{folder}").name == name


def test_of_a_list_of_captions_the_first_is_taken_and_the_rest_counted(tmp_path: Path) -> None:
    features = {"image": datasets.Image(), "texts": datasets.Sequence(datasets.Value("string"))}
    spec = saved(tmp_path / "a", {"image": images(*FIVE[:2]), "texts": [["a", "b", "c"], ["d"]]}, features)
    data = load(spec, caption_column="texts")
    assert (data.captions, data.skipped) == (("a", "d"), {"further captions of an image": 2})


def test_a_dataset_that_cannot_be_had_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="must be a dataset of the hub, reachable from here") as caught:
        load("hf:nobody/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="must be followed by the name or folder of a dataset"):
        load("hf:")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="must be a dataset of `save_to_disk`"):
        load(f"hf:{tmp_path / 'empty'}")


def test_a_configuration_follows_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        asked.append((arguments, options))
        return datasets.Dataset.from_dict(
            {"image": images(*FIVE)}, features=datasets.Features({"image": datasets.Image()})
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load("hf:someone/pets@small", split="test").name == "pets"
    assert len(load("hf:someone/pets")) == 5
    # Options that are not listed, such as one to trust code, are not given.
    assert asked == [
        (("someone/pets", "small"), {"split": "test", "streaming": False}),
        (("someone/pets", None), {"split": "train", "streaming": False}),
    ]


def test_only_these_datasets_need_the_library(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(FIVE[0])
    code = f"""
import sys
sys.modules["datasets"] = None
from immiscible.data import load
from immiscible.errors import InputError
load({str(tmp_path)!r})
try:
    load("hf:someone/pets")
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "the data `hf:someone/pets` needs the library datasets: `pip install datasets`.\n"


def test_columns_are_for_these_datasets_only() -> None:
    with pytest.raises(InputError, match="--caption-column are for Hugging Face datasets"):
        load("digits", image_column="image")
